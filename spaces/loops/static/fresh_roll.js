// Wraps roll.js so that an answer older than the newest one drawn is dropped, and so that the player finds the notes.
// `element`, `props`, `watch` and `trigger` come from Gradio.
const draws = [];
let shown = null;
let newest = -1;
element.addEventListener("playhead", (event) => { if (shown) shown.selected = event.output || 0; });
((props, watch) => {
/* roll.js */
})({ get value() { return shown; }, selectable: false }, (name, draw) => draws.push(draw));

function accept() {
  const value = props.value && JSON.parse(props.value);
  if (!value || !value.outputs || value.revision < newest) return;
  newest = value.revision;
  shown = value;
  draws.forEach((draw) => draw());
  const loops = (window.partimentoLoops = window.partimentoLoops || {});
  value.outputs.forEach((output, index) => {
    const name = output.title.toLowerCase();
    loops[name] = { bars: output.bars, tempo: value.tempo, revision: value.revision, holder: element, output: index };
  });
  if (value.outputs[0].title === "Initial" && value.outputs.length < 2) delete loops.original;
  element.dataset.ack = value.ack;
  element.dataset.revision = value.revision;
  window.dispatchEvent(new CustomEvent("loops-drawn", { detail: { ack: value.ack, revision: value.revision } }));
}

watch("value", accept);
accept();

// Piano rolls on canvas: one per output, growing while the bars arrive, with a playhead that follows the player.
// Runs inside a gr.HTML component: `element`, `props` and `watch` come from Gradio.
const ON_LIGHT = ["#0072B2", "#D55E00", "#009E73", "#B8578F", "#8F6600", "#2079A3", "#7A5195", "#8C564B"];
const ON_DARK = ["#56B4E9", "#F08A3C", "#2BC89B", "#E29AC6", "#D9B44A", "#8FD0F0", "#B79AD9", "#C9A093"];
const colours = () => (document.body.classList.contains("dark") ? ON_DARK : ON_LIGHT);
const NAMES = ["C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B"];
const pitchName = (pitch) => NAMES[pitch % 12] + (Math.floor(pitch / 12) - 1);
const LEFT = 34; // pixels of the pitch names
const LANE_NAMES = 68; // pixels of the names of drum lanes
const ZOOMS = [1, 2, 4, 8];
let zoom = 1;
let playhead = -1; // in beats
let connected = null; // the player that is followed
let chosen = null; // {output, first, last}, bars from 1

function programsOf(output) {
  const found = [];
  for (const bar of output.bars) for (const note of bar) if (!found.includes(note[0])) found.push(note[0]);
  return found.sort((a, b) => (a < 0) - (b < 0) || a - b);
}

function summary(output) {
  const notes = output.bars.flat();
  if (!notes.length) return count(output.bars, "bar") + ", no notes yet";
  const pitched = notes.filter((note) => note[0] >= 0).map((note) => note[1]);
  const range = pitched.length ? `, ${pitchName(Math.min(...pitched))}–${pitchName(Math.max(...pitched))}` : "";
  const sizes = [count(output.bars, "bar"), count(programsOf(output), "track"), count(notes, "note")];
  return sizes.join(", ") + range;
}

function count(items, name) {
  return `${items.length} ${name}${items.length === 1 ? "" : "s"}`;
}

function pattern(context, colour, index) {
  if (index < ON_LIGHT.length) return colour;
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const pen = tile.getContext("2d");
  pen.fillStyle = colour; pen.fillRect(0, 0, 6, 6);
  pen.strokeStyle = "#fff"; pen.beginPath(); pen.moveTo(0, 6); pen.lineTo(6, 0); pen.stroke();
  return context.createPattern(tile, "repeat");
}

const leftOf = (output) => (output.lanes ? LANE_NAMES : LEFT);
function barsOf(output) { return Math.max(output.total, output.bars.length, 1); }

function draw(canvas, output) {
  const width = canvas.clientWidth, height = canvas.clientHeight, scale = window.devicePixelRatio || 1;
  if (!width) return;
  canvas.width = width * scale; canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const style = getComputedStyle(canvas), ink = style.color;
  const left = leftOf(output), bottom = 16, total = barsOf(output), beats = 4 * total;
  const notes = output.bars.flat(), lanes = output.lanes || [];
  const pitches = notes.filter((note) => note[0] >= 0 || !lanes.length).map((note) => note[1]);
  // Drums with lanes of their own stand below the pitches, or fill the roll where nothing else can sound.
  const floor = (height - bottom) * (lanes.length ? (output.pitched ? 0.45 : 0) : 1);
  const lane = (height - bottom - floor) / Math.max(lanes.length, 1);
  const low = Math.min(36, ...pitches) - 1, high = Math.max(84, ...pitches) + 2;
  const x = (beat) => left + (beat / beats) * (width - left - 4);
  const y = (pitch) => (1 - (pitch - low) / (high - low)) * floor;
  const laneOf = (pitch) => floor + (lanes.findIndex(([number]) => number === pitch) + 0.5) * lane;
  pen.font = "11px sans-serif"; pen.fillStyle = ink; pen.strokeStyle = ink;
  if (output.primer) {
    pen.globalAlpha = 0.08; pen.fillRect(x(0), 0, x(4 * output.primer) - x(0), height - bottom); pen.globalAlpha = 1;
  }
  if (output.chosen) {
    const [first, last] = output.chosen;
    pen.globalAlpha = 0.18; pen.fillStyle = "#0072B2";
    pen.fillRect(x(4 * (first - 1)), 0, x(4 * last) - x(4 * (first - 1)), height - bottom);
    pen.globalAlpha = 1; pen.fillStyle = ink;
  }
  const step = Math.max(1, Math.ceil((total * 26) / (width - left)));
  for (let bar = 0; bar <= total; bar++) {
    pen.globalAlpha = bar % step ? 0.1 : 0.3;
    pen.beginPath(); pen.moveTo(x(4 * bar), 0); pen.lineTo(x(4 * bar), height - bottom); pen.stroke();
    pen.globalAlpha = 1;
    if (bar % step === 0 && bar < total) pen.fillText(String(bar + 1), x(4 * bar) + 2, height - 4);
  }
  pen.font = `${Math.max(8, Math.min(11, lane + 1))}px sans-serif`;
  for (const [pitch, name] of lanes) {
    pen.globalAlpha = 0.2;
    pen.beginPath(); pen.moveTo(left, laneOf(pitch)); pen.lineTo(width, laneOf(pitch)); pen.stroke();
    pen.globalAlpha = 1;
    pen.fillText(name, 2, laneOf(pitch) + lane / 3);
  }
  pen.font = "11px sans-serif";
  for (let pitch = Math.ceil(low / 12) * 12; floor && pitch < high; pitch += lanes.length ? 24 : 12) {
    pen.globalAlpha = 0.2;
    pen.beginPath(); pen.moveTo(left, y(pitch)); pen.lineTo(width, y(pitch)); pen.stroke();
    pen.globalAlpha = 1;
    if (!lanes.length || y(pitch) < floor - 10) pen.fillText(pitchName(pitch), 2, y(pitch) + 4);
  }
  const tracks = programsOf(output), thin = Math.max(2, floor / (high - low) - 0.5);
  tracks.forEach((program, index) => {
    pen.fillStyle = program < 0 ? ink : pattern(pen, colours()[index % ON_LIGHT.length], index);
    for (const [which, pitch, start, length, velocity] of notes) {
      if (which !== program) continue;
      pen.globalAlpha = 0.6 + 0.4 * (velocity / 127);
      const inLane = program < 0 && lanes.length, thick = inLane ? Math.max(2, lane - 2) : thin;
      const wide = inLane ? 4 : program < 0 ? 2.5 : Math.max(2, x(start + length) - x(start) - 0.7);
      pen.fillRect(x(start), (inLane ? laneOf(pitch) : y(pitch)) - thick / 2, wide, thick);
    }
  });
  pen.globalAlpha = 1;
  if (playhead >= 0 && output.playing) {
    pen.globalAlpha = 0.15; pen.fillStyle = "#D55E00";
    const bar = Math.floor(playhead / 4) * 4;
    pen.fillRect(x(bar), 0, x(bar + 4) - x(bar), height - bottom);
    pen.globalAlpha = 1; pen.strokeStyle = "#D55E00"; pen.lineWidth = 2;
    pen.beginPath(); pen.moveTo(x(playhead), 0); pen.lineTo(x(playhead), height - bottom); pen.stroke();
  }
  canvas.dataset.notes = notes.length;
  canvas.dataset.lanes = lanes.length;
  canvas.dataset.bars = output.bars.length;
  canvas.dataset.selected = output.playing;
  canvas.dataset.playhead = output.playing ? playhead : -1;
  canvas.dataset.chosen = output.chosen ? output.chosen.join("-") : "";
}

function legend(output, names) {
  return programsOf(output).map((program, index) => {
    const colour = program < 0 ? "currentColor" : colours()[index % ON_LIGHT.length];
    const stripes = index >= ON_LIGHT.length ? ` style="border:1px dashed"` : "";
    return `<span class="key"${stripes}><i style="background:${colour}"></i>${names[String(program)] || program}</span>`;
  }).join(" ");
}

function render() {
  const holder = element.querySelector(".rolls"), value = props.value;
  if (!holder || !value || !value.outputs) return;
  while (holder.children.length > value.outputs.length) holder.lastChild.remove();
  while (holder.children.length < value.outputs.length) {
    const figure = document.createElement("figure");
    figure.innerHTML = `<figcaption></figcaption><div class="view"><canvas role="img"></canvas></div>` +
      `<div class="legend"></div>`;
    holder.append(figure);
    selectable(figure.querySelector("canvas"), holder.children.length - 1);
  }
  showZoom(value.outputs);
  value.outputs.forEach((given, index) => {
    const output = { ...given, playing: index === value.selected }; // a changed value would seem to be a new one
    const [caption, view, keys] = holder.children[index].children, canvas = view.firstChild, text = summary(output);
    const title = output.title || `Output ${index + 1}`;
    output.chosen = chosen && chosen.output === index ? [chosen.first, chosen.last] : null;
    caption.textContent = [`${title}: ${output.caption || text}`, output.caption ? text : ""].filter(Boolean).join(" · ");
    canvas.setAttribute("aria-label", `Piano roll of ${title}: ${text}`);
    keys.innerHTML = legend(output, value.names);
    canvas.style.width = `${100 * zoom}%`;
    canvas.style.height = output.lanes && output.pitched ? "270px" : "";
    draw(canvas, output);
    if (zoom > 1 && playhead >= 0 && output.playing) follow(view, output);
    if (output.playing && element.offsetParent) { // the player loops over what is chosen of its piece
      window.dispatchEvent(new CustomEvent("bars-chosen", { detail: output.chosen }));
    }
  });
}

// Zoom: bars grow wider and the roll scrolls; while it plays it follows the sound.
function showZoom(outputs) {
  const bar = element.querySelector(".zoom");
  if (!bar) return;
  if (!bar.dataset.ready) {
    bar.dataset.ready = "yes";
    bar.addEventListener("click", (event) => {
      const step = Number((event.target.closest("button") || { dataset: {} }).dataset.step);
      if (!step) return;
      zoom = ZOOMS[Math.min(Math.max(ZOOMS.indexOf(zoom) + step, 0), ZOOMS.length - 1)];
      render();
    });
  }
  bar.hidden = Math.max(...outputs.map(barsOf), 0) <= 4;
  bar.querySelector("output").textContent = `×${zoom}`;
  const [out, into] = bar.querySelectorAll("button");
  out.disabled = zoom === ZOOMS[0]; into.disabled = zoom === ZOOMS[ZOOMS.length - 1];
}

function follow(view, output) {
  const left = leftOf(output), wide = view.firstChild.clientWidth - left - 4;
  const at = left + (playhead / (4 * barsOf(output))) * wide;
  if (at < view.scrollLeft || at > view.scrollLeft + view.clientWidth - 20) view.scrollLeft = at - left;
}

// Bars are chosen by dragging over them, and freed by a click on a single chosen one; the page has number fields for the
// keyboard.
function selectable(canvas, index) {
  const barAt = (event) => {
    const box = canvas.getBoundingClientRect(), output = props.value.outputs[index];
    const left = leftOf(output), share = (event.clientX - box.left - left) / (box.width - left - 4);
    return Math.min(Math.max(Math.floor(share * barsOf(output)), 0), output.bars.length - 1) + 1;
  };
  let from = 0, freeing = false;
  const choose = (event) => {
    const to = barAt(event);
    chosen = { output: index, first: Math.min(from, to), last: Math.max(from, to) };
    render();
  };
  if (!props.selectable) return;
  canvas.classList.add("choosing");
  canvas.addEventListener("pointerdown", (event) => {
    if (!props.value.outputs[index].bars.length) return;
    from = barAt(event); canvas.setPointerCapture(event.pointerId);
    freeing = chosen && chosen.output === index && chosen.first === from && chosen.last === from;
    choose(event);
  });
  canvas.addEventListener("pointermove", (event) => { if (from) choose(event); });
  canvas.addEventListener("pointercancel", () => { from = 0; });
  canvas.addEventListener("pointerup", (event) => {
    if (!from) return;
    choose(event);
    if (freeing && barAt(event) === from) { chosen = null; render(); }
    else trigger("select", { ...chosen, output: index + 1 });
    from = 0;
  });
}

function takeRange() {
  const range = props.value && props.value.range;
  chosen = range ? { output: range[0], first: range[1], last: range[2] } : null;
}

function connect(player) {
  if (!player || player === connected) return;
  connected = player;
  const tempo = () => (props.value && props.value.tempo) || 120;
  player.addEventListener("note", (event) => {
    if (!element.offsetParent) return; // another tab is shown, and its music plays
    playhead = (event.detail.note.startTime * tempo()) / 60; render();
  });
  player.addEventListener("stop", () => { playhead = -1; render(); });
}

watch("value", () => { takeRange(); connect(document.querySelector("midi-player")); render(); });
window.addEventListener("bars-typed", (event) => {
  const [first, last] = event.detail;
  if (!props.selectable || !props.value || !(first >= 1 && last >= first)) return;
  chosen = { output: props.value.selected, first, last };
  render();
});
element.addEventListener("playhead", (event) => { playhead = event.detail; render(); }); // from a player of the page
new ResizeObserver(() => render()).observe(element);
connect(document.querySelector("midi-player"));
render();

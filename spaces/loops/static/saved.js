// The saved list: play, name, use, duplicate, move, delete; reordering also by dragging the number.
const list = element.querySelector(".saved"), total = element.querySelector(".total");
let newest = -1, playing = null, dragged = null;
const BUTTONS = [
  ["use", "Use", "Make current:"], ["duplicate", "Copy", "Duplicate"], ["up", "↑", "Move up:"],
  ["down", "↓", "Move down:"], ["delete", "Delete", "Delete"],
];

function render() {
  const value = props.value && JSON.parse(props.value);
  if (!value || !value.items || value.revision < newest) return;
  newest = value.revision;
  total.textContent = value.total;
  const held = document.activeElement && list.contains(document.activeElement) ? document.activeElement.dataset : null;
  list.replaceChildren(...value.items.map((item, index) => row(value, item, index)));
  if (held && held.key) {
    const same = list.querySelector(`[data-key="${held.key}"][data-action="${held.action}"]`);
    if (same) same.focus();
  }
  list.dataset.count = value.items.length;
}

function row(value, item, index) {
  const line = document.createElement("li"), notes = item.roll.bars.flat().length;
  line.dataset.item = item.key;
  const place = document.createElement("span");
  place.className = "place"; place.textContent = `${index + 1}.`; place.draggable = true; place.title = "Drag to reorder";
  const name = document.createElement("input");
  name.value = item.name; name.maxLength = 60;
  name.setAttribute("aria-label", `Name of loop ${index + 1}`);
  name.addEventListener("change", () => trigger("select", { action: "rename", key: item.key, name: name.value }));
  const facts = document.createElement("span");
  facts.className = "facts"; facts.textContent = `${item.roll.bars.length} bars, ${notes} notes`;
  const play = button("play", "▶", `Play ${item.name}`, item.key);
  play.setAttribute("aria-pressed", playing === item.key);
  play.addEventListener("click", () => window.dispatchEvent(new CustomEvent("loops-play", {
    detail: { name: item.key, loop: { bars: item.roll.bars, tempo: value.tempo, revision: value.revision } },
  })));
  line.append(place, play, name, facts, ...BUTTONS.map(([action, text, label]) => {
    const made = button(action, text, `${label} ${item.name}`, item.key);
    made.disabled = (action === "up" && !index) || (action === "down" && index === value.items.length - 1);
    made.addEventListener("click", () => act(action, item.key, index));
    return made;
  }));
  place.addEventListener("dragstart", (event) => { dragged = item.key; event.dataTransfer.setData("text/plain", item.key); });
  line.addEventListener("dragover", (event) => { if (dragged) { event.preventDefault(); line.classList.add("over"); } });
  line.addEventListener("dragleave", () => line.classList.remove("over"));
  line.addEventListener("drop", (event) => {
    event.preventDefault(); line.classList.remove("over");
    if (dragged && dragged !== item.key) trigger("select", { action: "put", key: dragged, place: index });
    dragged = null;
  });
  return line;
}

function button(action, text, label, key) {
  const made = document.createElement("button");
  made.type = "button"; made.textContent = text; made.setAttribute("aria-label", label);
  made.dataset.action = action; made.dataset.key = key;
  return made;
}

function act(action, key, index) {
  if (action === "up" || action === "down") trigger("select", { action: "put", key, place: index + (action === "up" ? -1 : 1) });
  else trigger("select", { action, key });
}

window.addEventListener("loops-playing", (event) => {
  playing = event.detail;
  list.querySelectorAll('[data-action="play"]').forEach((made) => made.setAttribute("aria-pressed", made.dataset.key === playing));
});
watch("value", render);
render();

// Sliders over z. The server holds the points: a move sends only what the visitor moved and has no answer yet, and the
// positions that come back are shown as they are, also where they lie outside the range of a slider.
const holder = element.querySelector(".sliders");
const pending = new Map(); // key -> {value, number}; the value null puts a slider back, or all of them for the key ALL
const ALL = "*";
const rows = new Map(); // key -> elements
const PATIENCE = 4000; // milliseconds after which an answer counts as lost
let sentAt = -PATIENCE;
let number = 0, newest = -1, heard = 0, gesture = 0, pressed = -1000, signature = "";
const page = Math.random().toString(36).slice(2); // gestures of this page
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function describe(value, slider) {
  const arrow = value > slider.high + 0.005 ? "▲ " : value < slider.low - 0.005 ? "▼ " : "";
  return arrow + value.toFixed(2).replace("-0.00", "0.00");
}

function show(row, value) {
  const slider = row.slider, place = clamp(value, slider.low, slider.high);
  if (Math.abs(Number(row.input.value) - place) > 0.0051) row.input.value = place;
  row.output.textContent = describe(value, slider);
  row.input.setAttribute("aria-valuetext", `${describe(value, slider)}${slider.locked ? ", locked" : ""}`);
  row.cell.style.setProperty("--at", `${(100 * (place - slider.low)) / (slider.high - slider.low)}%`);
  row.cell.dataset.value = value;
  row.cell.classList.toggle("outside", place !== value);
}

// One request at a time; what is moved meanwhile goes with the next one. (Gradio's own `always_last` sends the data of
// the first event again.)
function send() {
  if (!pending.size || performance.now() - sentAt < PATIENCE) return;
  sentAt = performance.now();
  const moves = {};
  for (const [key, move] of pending) moves[key] = move.value;
  trigger("input", { moves, request_id: number, gesture: `${page}-${gesture}` });
  setTimeout(send, PATIENCE + 10);
}

function build(value) {
  holder.textContent = "";
  rows.clear(); pending.clear();
  for (const slider of value.sliders) {
    const cell = document.createElement("div");
    cell.className = slider.key.startsWith("a:") ? "cell attribute" : "cell";
    cell.dataset.key = slider.key;
    cell.innerHTML = `<span class="name"></span><span class="track"><input type="range" step="0.01"></span>` +
      `<output></output><button type="button" class="lock" aria-pressed="false">lock</button>`;
    const [name, track, output, lock] = cell.children, input = track.firstChild;
    name.textContent = slider.name; name.title = slider.hint;
    Object.assign(input, { min: slider.low, max: slider.high });
    input.setAttribute("aria-label", slider.hint ? `${slider.name}, ${slider.hint}` : slider.name);
    lock.setAttribute("aria-label", `Lock ${slider.name}`);
    const row = { cell, input, output, lock, slider };
    rows.set(slider.key, row);
    const begin = () => { gesture += 1; };
    input.addEventListener("pointerdown", (event) => { // a double click is one gesture
      if (event.timeStamp - pressed > 500) begin();
      pressed = event.timeStamp;
    });
    input.addEventListener("focus", begin);
    input.addEventListener("keydown", (event) => { if (!event.repeat) begin(); });
    input.addEventListener("input", () => {
      pending.set(slider.key, { value: Number(input.value), number: ++number });
      show(row, Number(input.value));
      send();
    });
    const reset = () => { pending.set(slider.key, { value: null, number: ++number }); send(); };
    input.addEventListener("dblclick", reset);
    input.addEventListener("keydown", (event) => { if (["Delete", "Backspace"].includes(event.key)) reset(); });
    lock.addEventListener("click", () => trigger("select", { key: slider.key, on: !row.slider.locked }));
    if (slider.key.startsWith("p")) cell.classList.add("wide");
    holder.append(cell);
  }
}

// All sliders go back in order with the moves: after one in flight, before those that follow.
window.addEventListener("sliders-reset", () => {
  gesture += 1;
  pending.clear(); // nobody would see them
  pending.set(ALL, { value: null, number: ++number });
  send();
});

function apply() {
  const value = props.value && JSON.parse(props.value);
  if (!value || !value.sliders || value.revision < newest) return;
  newest = value.revision;
  const next = value.model + value.sliders.map((slider) => slider.key).join();
  if (next !== signature) { signature = next; build(value); }
  if (value.ack > heard) { heard = value.ack; sentAt = -PATIENCE; }
  for (const [key, move] of pending) if (move.number <= value.ack) pending.delete(key);
  for (const slider of value.sliders) {
    const row = rows.get(slider.key);
    row.slider = slider;
    row.input.disabled = slider.locked;
    row.lock.setAttribute("aria-pressed", slider.locked);
    if (!pending.has(slider.key)) show(row, slider.value);
  }
  send();
}

watch("value", apply);
apply();

// html-midi-player with a loop over chosen bars and a tempo of its own. All notes of the piece stand on the transport's
// line where they are written; the tempo says how fast the line is walked along, the loop where the walk turns back.
// Runs inside a gr.HTML component: `element`, `props` and `watch` come from Gradio.
const find = (name) => element.querySelector(name);
const player = find("midi-player"), loop = find(".loop"), speed = find(".speed");
let chosen = null; // [first, last], bars from 1: what is chosen on the roll of the piece

const pace = () => Number(speed.value) / 100;
function tempo() { // as written, in quarters a minute
  const [first] = (player.noteSequence && player.noteSequence.tempos) || [];
  return (first && first.qpm) || 120;
}
// The times on the page are those of the clock: at half the tempo a piece takes twice as long.
function clock(seconds) {
  const whole = Math.floor(seconds / pace() + 0.001), two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}`;
}
player.displayCurrentTime = function (seconds) {
  this.currentTimeLabel.textContent = clock(seconds);
  this.seekBar.setAttribute("aria-valuetext", `Elapsed time: ${clock(seconds)}`);
};

function looped() { // bars from 1
  const bars = (props.value && props.value.bars) || 1;
  return chosen && chosen[0] <= bars ? [chosen[0], Math.min(chosen[1], bars)] : [1, bars];
}

function adapt() {
  const synth = window.core && core.Player && core.Player.prototype;
  if (!synth || synth.adapted) return;
  const { start, playNote } = synth, line = core.Player.tone.Transport;
  const ticks = (seconds) => Math.round((seconds * tempo() * line.PPQ) / 60);
  synth.adapted = true;
  // The player's own way to start in the middle puts only the later notes on the line, from its beginning: nothing before
  // them could be looked for again. The piece ends with its last bar, a tick after a loop would turn back.
  synth.start = function (sequence, _, from = 0) {
    const end = ((4 * props.value.bars + 1 / line.PPQ) * 60) / tempo();
    const whole = Object.create(sequence, { totalTime: { value: Math.max(end, sequence.totalTime) } });
    line.start = () => line; // not before it stands at the right place: a note of the beginning would be heard
    const ended = start.call(this, whole);
    delete line.start;
    follow(ticks(from));
    if (line.state !== "started") line.start();
    return ended;
  };
  synth.seekTo = (seconds) => { line.ticks = ticks(seconds); };
  synth.playNote = function (time, note) {
    const endTime = note.startTime + (note.endTime - note.startTime) / pace();
    // Its bass and each of its drums have one voice: a second note at the same time is an error there, and not heard.
    try { playNote.call(this, time, { ...note, endTime }); } catch { /* goes on */ }
  };
}

// What plays does as the controls say; `from`: where it starts, in ticks.
function follow(from) {
  show();
  if (!player.playing) return;
  const line = core.Player.tone.Transport, [first, last] = looped();
  const [begin, end] = [first - 1, last].map((bars) => 4 * bars * line.PPQ), at = from === undefined ? line.ticks : from;
  line.bpm.value = tempo() * pace();
  line.setLoopPoints(`${begin}i`, `${end}i`);
  line.loop = loop.checked;
  if (loop.checked && (at < begin || at >= end)) line.ticks = begin;
  else if (from !== undefined) line.ticks = from;
}

function show() {
  const [first, last] = looped(), bars = first === last ? `bar ${first}` : `bars ${first}–${last}`;
  find(".what").textContent = chosen ? bars : "the piece";
  const share = `${speed.value} %`, beats = player.noteSequence ? `, ${Math.round(tempo() * pace())} bpm` : "";
  find(".share").textContent = share;
  find(".beats").textContent = beats;
  speed.setAttribute("aria-valuetext", share + beats);
  if (!player.noteSequence) return;
  player.displayCurrentTime(player.currentTime);
  player.totalTimeLabel.textContent = clock(player.duration);
}

watch("value", () => {
  adapt();
  const { src, keep } = props.value || {}, at = player.currentTime;
  if (keep && player.playing) { // the other version goes on where this one was
    const goOn = () => { player.currentTime = Math.min(at, player.duration); player.start(); };
    player.addEventListener("load", goOn, { once: true });
  }
  if (src) player.setAttribute("src", src); else player.removeAttribute("src");
});
player.addEventListener("load", () => show());
loop.addEventListener("change", () => follow());
speed.addEventListener("input", () => follow());
window.addEventListener("bars-chosen", (event) => {
  if (String(chosen) === String(event.detail)) return;
  chosen = event.detail;
  follow();
});
show();

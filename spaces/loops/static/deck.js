// Plays loops with Web Audio. A live loop takes what is current at each of its starts, so edits enter without a gap;
// nothing sounds and no device is asked for before a click. Notes are found in window.partimentoLoops.
const find = (selector) => element.querySelector(selector);
const state = (window.partimentoDeck = { passes: [], playing: null });
const HORIZON = 0.12; // seconds that are scheduled ahead
let context = null, output = null, noise = null, timer = null, port = null;

function awake() {
  if (!context) {
    context = new AudioContext();
    output = new GainNode(context, { gain: 0.3 });
    output.connect(new DynamicsCompressorNode(context)).connect(context.destination);
    noise = new AudioBuffer({ length: context.sampleRate / 2, sampleRate: context.sampleRate });
    const samples = noise.getChannelData(0);
    for (let i = 0; i < samples.length; i++) samples[i] = 2 * Math.random() - 1;
  }
  return context.resume();
}

// Sound. Everything that is scheduled hangs on the gain of its pass, so that stop silences it at once.
function tone(pitch, at, length, volume) {
  const oscillator = new OscillatorNode(context, { type: find(".timbre").value, frequency: 440 * 2 ** ((pitch - 69) / 12) });
  const gain = new GainNode(context, { gain: 0 });
  gain.gain.setValueAtTime(0, at);
  gain.gain.linearRampToValueAtTime(volume, at + 0.008);
  gain.gain.setTargetAtTime(volume * 0.6, at + 0.01, 0.15);
  gain.gain.setTargetAtTime(0, at + length - 0.01, 0.02);
  oscillator.connect(gain).connect(state.playing.gain);
  oscillator.start(at); oscillator.stop(at + length + 0.15);
}

const SHORT = { 42: 0.04, 46: 0.25, 49: 0.45, 51: 0.3 };
function drum(pitch, at) {
  const gain = new GainNode(context, { gain: 0 }), metal = pitch in SHORT, low = !metal && pitch !== 38;
  const length = metal ? SHORT[pitch] : 0.18;
  gain.gain.setValueAtTime(metal ? 0.35 : 0.9, at);
  gain.gain.exponentialRampToValueAtTime(0.001, at + length);
  let source;
  if (low) {
    const from = pitch === 36 ? 140 : 90 + 4 * (pitch - 36) * 2;
    source = new OscillatorNode(context, { frequency: from });
    source.frequency.exponentialRampToValueAtTime(from / 3, at + length);
    source.connect(gain);
  } else {
    source = new AudioBufferSourceNode(context, { buffer: noise });
    const filter = new BiquadFilterNode(context, { type: metal ? "highpass" : "bandpass", frequency: metal ? 7000 : 1800 });
    source.connect(filter).connect(gain);
  }
  gain.connect(state.playing.gain);
  source.start(at); source.stop(at + length + 0.02);
}

// MIDI out
const clockTime = (at) => performance.now() + 1000 * (at - context.currentTime);
function outward(program, pitch, at, length, velocity) {
  const channel = program < 0 ? 9 : Number(find(".channel").value) - 1 || 0;
  port.send([0x90 | channel, pitch, velocity], clockTime(at));
  port.send([0x80 | channel, pitch, 0], clockTime(at + length * 0.98));
}
function panic() {
  if (!port) return;
  if (port.clear) port.clear();
  for (let channel = 0; channel < 16; channel++) { port.send([0xb0 | channel, 120, 0]); port.send([0xb0 | channel, 123, 0]); }
}
async function openMidi() {
  const told = find(".told");
  if (!navigator.requestMIDIAccess) { told.textContent = "This browser has no Web MIDI; Chrome and Edge have."; return; }
  try {
    const access = await navigator.requestMIDIAccess();
    const ports = [...access.outputs.values()], select = find(".port");
    if (!ports.length) { told.textContent = "There is no MIDI output on this machine."; return; }
    select.replaceChildren(...ports.map((found, index) => new Option(found.name, index)));
    select.onchange = () => { panic(); port = ports[Number(select.value)]; };
    port = ports[0];
    element.querySelectorAll(".deck [hidden]").forEach((part) => part.removeAttribute("hidden"));
    told.textContent = `MIDI goes to ${port.name}.`;
  } catch { told.textContent = "The browser did not allow MIDI."; }
}

// Time
function takeUp(at) {
  const playing = state.playing, loop = playing.find();
  const beat = 60 / loop.tempo, notes = loop.bars.flat().sort((a, b) => a[2] - b[2]);
  playing.pass = { at, beat, notes, next: 0, pulse: 0, length: 4 * loop.bars.length * beat, loop };
  state.passes.push({ at, length: playing.pass.length, revision: loop.revision });
  if (state.passes.length > 64) state.passes.shift();
}

function tick() {
  const playing = state.playing, now = context.currentTime;
  if (!playing) return;
  for (;;) {
    const { at, beat, notes, length } = playing.pass, pass = playing.pass;
    while (pass.next < notes.length && at + notes[pass.next][2] * beat < now + HORIZON) {
      const [program, pitch, start, long, velocity] = notes[pass.next++], from = Math.max(at + start * beat, now);
      if (port) outward(program, pitch, from, long * beat, velocity);
      else if (program < 0) drum(pitch, from);
      else tone(pitch, from, long * beat, 0.5 * (velocity / 127));
    }
    while (port && find(".clock").checked && at + (pass.pulse * beat) / 24 < Math.min(now + HORIZON, at + length)) {
      port.send([0xf8], clockTime(at + (pass.pulse++ * beat) / 24));
    }
    if (now + HORIZON < at + length) break;
    if (!playing.live) { if (now > at + length) stop(); break; }
    playing.before = { at, beat, loop: pass.loop };
    takeUp(at + length);
  }
  if (!state.playing) return;
  const heard = now < playing.pass.at && playing.before ? playing.before : playing.pass;
  const step = Math.floor((4 * (now - heard.at)) / heard.beat) / 4;
  if (step >= 0 && step !== playing.step) { playing.step = step; point(heard.loop, step); }
}

function point(loop, beat) {
  const event = new CustomEvent("playhead", { detail: beat });
  event.output = loop.output || 0;
  if (loop.holder) loop.holder.dispatchEvent(event);
}

function stop() {
  const playing = state.playing;
  if (!playing) return;
  clearInterval(timer);
  playing.gain.gain.setTargetAtTime(0, context.currentTime, 0.01);
  setTimeout(() => playing.gain.disconnect(), 300);
  if (port) { panic(); if (find(".clock").checked) port.send([0xfc]); }
  point(playing.pass.loop, -1);
  state.playing = null;
  mark();
}

function mark() {
  const name = state.playing && state.playing.name;
  element.querySelectorAll("[data-play]").forEach((button) => button.setAttribute("aria-pressed", name === button.dataset.play));
  find("[data-live]").setAttribute("aria-pressed", name === "live");
  window.dispatchEvent(new CustomEvent("loops-playing", { detail: name }));
}

// Plays from the start; a second call with the same name stops.
async function play(name, seek, live) {
  const again = state.playing && state.playing.name === name;
  stop();
  if (again) return;
  if (!seek()) { find(".told").textContent = `There is no ${name} loop.`; return; }
  await awake();
  stop();
  state.playing = { name, live, find: () => seek() || state.playing.pass.loop, gain: new GainNode(context), step: -1 };
  state.playing.gain.connect(output);
  state.passes.length = 0;
  takeUp(context.currentTime + 0.05);
  if (port && find(".clock").checked) port.send([0xfa], clockTime(state.playing.pass.at));
  timer = setInterval(tick, 25);
  find(".told").textContent = "";
  mark();
}

const stored = (name) => () => (window.partimentoLoops || {})[name];
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.play) play(button.dataset.play, stored(button.dataset.play), false);
  else if (button.dataset.live) play("live", stored("current"), true);
  else if (button.classList.contains("midi-out")) openMidi();
  else if (button.classList.contains("panic")) panic();
});
window.addEventListener("loops-play", (event) => play(event.detail.name, () => event.detail.loop, false));
window.addEventListener("pagehide", stop);

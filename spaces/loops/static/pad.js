// A square between four loops; pointer or arrow keys.
const pad = element.querySelector(".pad"), place = element.querySelector(".place");
const page = Math.random().toString(36).slice(2);
const PATIENCE = 4000; // milliseconds after which an answer counts as lost
let sentAt = -PATIENCE, moved = false, x = 0.5, y = 0.5, gesture = 0, held = false;

function go(nextX, nextY) {
  x = Math.min(Math.max(nextX, 0), 1); y = Math.min(Math.max(nextY, 0), 1);
  pad.style.setProperty("--x", x); pad.style.setProperty("--y", y);
  place.textContent = `${Math.round(100 * x)} % to the right, ${Math.round(100 * y)} % down`;
  moved = true;
  send();
}
// One request at a time, the last place wins; a drawn answer frees the way for the next.
function send() {
  if (!moved || performance.now() - sentAt < PATIENCE) return;
  moved = false; sentAt = performance.now();
  trigger("input", { x, y, gesture: `pad-${page}-${gesture}` });
  setTimeout(send, PATIENCE + 10);
}
window.addEventListener("loops-drawn", () => { sentAt = -PATIENCE; send(); });
function follow(event) {
  const box = pad.getBoundingClientRect();
  go((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}
pad.addEventListener("pointerdown", (event) => { held = true; gesture += 1; pad.setPointerCapture(event.pointerId); follow(event); });
pad.addEventListener("pointermove", (event) => { if (held) follow(event); });
for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => { held = false; });
pad.addEventListener("focus", () => { gesture += 1; });
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
pad.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  const size = event.shiftKey ? 0.25 : 0.05;
  go(x + size * step[0], y + size * step[1]);
});

"""Parts of the page that Gradio does not have: piano rolls, a player, and files that never touch the disk."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("vendor/Tone.js", "vendor/magenta-core.js", "vendor/midi-player.min.js")  # in this order
PLAYER = """
<div class="play">
  <midi-player aria-label="Player" class="player"></midi-player>
  <label><input type="checkbox" class="loop"> Loop <span class="what"></span></label>
  <label>Tempo <input type="range" class="speed" min="50" max="150" step="5" value="100">
    <span><span class="share"></span><span class="beats"></span></span></label>
</div>
"""
ROLL = """
<div class="zoom" role="group" aria-label="Zoom of the rolls" hidden>
  <button type="button" data-step="-1" aria-label="Zoom out">−</button><output></output>
  <button type="button" data-step="1" aria-label="Zoom in">+</button>
</div>
<div class="rolls" aria-live="off"></div>
"""
CSS = """
.rolls figure { margin: 0 0 12px; min-width: 0; } .rolls canvas { width: 100%; height: 190px; display: block;
  color: inherit; border: 1px solid var(--border-color-primary); border-radius: 6px; touch-action: pan-y; }
.rolls canvas.choosing { cursor: col-resize; } .rolls .view { overflow-x: auto; }
.zoom { display: flex; gap: 8px; align-items: center; justify-content: flex-end; } .zoom[hidden] { display: none; }
.zoom button { min-width: 32px; padding: 2px 8px; border: 1px solid var(--border-color-primary); border-radius: 6px; }
.zoom button:disabled { opacity: 0.4; }
.rolls figcaption, .legend { font-size: 13px; padding: 3px 0; overflow-wrap: anywhere; }
.legend .key { margin-right: 12px; white-space: nowrap; display: inline-block; }
.legend i { display: inline-block; width: 10px; height: 10px; margin-right: 4px; border-radius: 2px; }
#compare-roll .rolls { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); }
#player { position: sticky; bottom: 0; z-index: 5; background: var(--body-background-fill); }
.play { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: center; }
.play label { display: inline-flex; gap: 6px; align-items: center; font-size: 13px; min-height: 26px; }
.play .speed { width: 110px; accent-color: var(--primary-600, #0072B2); }
@media (max-width: 600px) { .play .speed { width: 66px; } .play .beats { display: none; } }
.player { flex: 1 1 300px; width: 100%; margin: 0; color: #222; /* its ground is light in dark pages, too */ }
.downloads a { display: inline-block; margin: 0 8px 8px 0; padding: 7px 12px; color: inherit;
  border: 1px solid var(--border-color-primary); border-radius: 6px; text-decoration: none; }
.tables { overflow-x: auto; }
:is(#status, #compare-status) .wrap { overflow: visible; }
:is(#status, #compare-status) .progress-text { transform: none; top: 0; }
.tables th, .tables td { word-break: normal; overflow-wrap: normal; padding: 4px 6px; font-size: 13px; }
@media (max-width: 600px) { .tables th, .tables td { padding: 3px 4px; font-size: 11.5px; hyphens: auto; } }
:root, .dark { --block-info-text-color: var(--body-text-color); /* all of these: contrast of at least 4.5 */
  --button-primary-background-fill: #C2410C; --button-primary-background-fill-hover: #9A3412;
  --button-cancel-background-fill: #B91C1C; --button-cancel-background-fill-hover: #991B1B;
  --button-primary-text-color: #fff; --button-cancel-text-color: #fff;
  --body-text-color-subdued: #5F5F68; --input-placeholder-color: #6B6B74; }
.gradio-container button[role="tab"].selected { color: var(--body-text-color); }
.dark { --body-text-color-subdued: #B4B4BC; --input-placeholder-color: #A1A1AA; }
#history input { text-overflow: ellipsis; padding-right: 28px; }
:is(a, button, .play input, .rolls canvas):focus-visible { outline: 3px solid #D55E00; outline-offset: 1px; }
"""


class RollView(gr.HTML):
    """Piano rolls: {outputs: [{bars, total, primer, caption, title, lanes, pitched}], selected, tempo, names, range:
    [output, first, last] or null}. `lanes`, where there are any, are [pitch, name] of the drums from the top; `pitched`
    says whether other notes stand above them. Dragging over bars triggers `select` with {output, first, last}, counted
    from 1."""

    def __init__(self, value: Any = None, **kwargs):
        code = (STATIC / "roll.js").read_text(encoding="utf-8")
        super().__init__(value=value, html_template=ROLL, js_on_load=code, **kwargs)

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


class Player(gr.HTML):
    """html-midi-player with a loop (the piece, or the bars chosen on its roll) and a tempo of 50 to 150 % of what is
    written, at the same pitch. The value is {src, bars, keep}: a data URL, the length in bars, and whether a piece that
    plays goes on in the new one from the same place. No `sound-font`: that would fetch samples from elsewhere."""

    def __init__(self, value: Any = None, **kwargs):
        head = "".join(f'<script src="./composer-static/{name}"></script>' for name in SCRIPTS)
        code = (STATIC / "player.js").read_text(encoding="utf-8")
        super().__init__(value=value, html_template=PLAYER, js_on_load=code, head=head, **kwargs)

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


class Shelf:
    """Finished files in memory, each under a name that nobody can guess; they go after an hour or when space ends."""

    def __init__(self, max_bytes: int = 300_000_000, max_seconds: float = 3600.0):
        self.max_bytes, self.max_seconds = max_bytes, max_seconds
        self.files: dict[str, tuple[float, str, str, bytes]] = {}
        self.lock = threading.Lock()

    def put(self, name: str, kind: str, data: bytes) -> str:
        """Keeps a file; the path, relative to the page, from which it is fetched."""
        token = secrets.token_urlsafe(24)
        with self.lock:
            self.files[token] = (time.monotonic(), name, kind, data)
            self._tidy()
        return f"composer-file/{token}"

    def answer(self, request: Request) -> Response:
        """The file of a request, or 404."""
        with self.lock:
            self._tidy()
            found = self.files.get(request.path_params["token"])
        if found is None:
            return PlainTextResponse("This file is gone; make it again.", 404)
        _, name, kind, data = found
        return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    def _tidy(self) -> None:
        now = time.monotonic()
        self.files = {token: file for token, file in self.files.items() if now - file[0] < self.max_seconds}
        while len(self.files) > 1 and sum(len(file[3]) for file in self.files.values()) > self.max_bytes:
            del self.files[next(iter(self.files))]

    def routes(self) -> list[BaseRoute]:
        """Where the page finds the files of the shelf and the scripts of the player: no path of the server shows."""
        return [
            Route("/composer-file/{token}", self.answer),
            Mount("/composer-static", StaticFiles(directory=STATIC)),
        ]

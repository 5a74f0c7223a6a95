"""Parts of the page that Gradio does not have: sliders over z, rolls that drop late answers, a loop player, the saved
list, and a pad. Their scripts stand in `static/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
from composer_components import CSS as ROLL_CSS
from composer_components import ROLL

STATIC = Path(__file__).parent / "static"
CSS = ROLL_CSS + (STATIC / "loops.css").read_text(encoding="utf-8")


def _script(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


class _Part(gr.HTML):
    """A component whose value is an object and whose script draws it. It travels as text: the page would otherwise
    watch every number in it, which takes longer than to draw them."""

    def postprocess(self, value: Any) -> str | None:
        return None if value is None else json.dumps(value)

    def api_info(self) -> dict[str, Any]:
        return {"type": "string"}


class FreshRoll(_Part):
    """Piano rolls as those of the Composer Space, that never draw an answer older than the newest that was drawn.

    The value holds also {revision, ack}: the number of the answer, and of the newest slider move that is in it.
    """

    def __init__(self, value: Any = None, **kwargs):
        code = _script("fresh_roll.js").replace("/* roll.js */", _script("roll.js"))
        super().__init__(value=value, html_template=ROLL, js_on_load=code, **kwargs)


class Sliders(_Part):
    """Sliders over z: {sliders: [{key, name, hint, value, low, high, locked}], model, revision, ack}.

    Triggers `input` with {moves: {key: value}, request_id, gesture}, where `moves` holds every move without answer and
    the value null puts a slider back; `select` with {key, on} to lock.
    """

    def __init__(self, value: Any = None, **kwargs):
        template = '<div class="sliders" role="group" aria-label="Sliders"></div>'
        super().__init__(value=value, html_template=template, js_on_load=_script("sliders.js"), **kwargs)


class Deck(_Part):
    """Plays loops in the browser, with a loop that takes edits at its next start, and MIDI out."""

    def __init__(self, value: Any = None, **kwargs):
        super().__init__(value=value, html_template=_script("deck.html"), js_on_load=_script("deck.js"), **kwargs)


class SavedList(_Part):
    """The saved loops: {items: [{key, name, roll}], total, tempo, revision}. Triggers `select` with {action, key, ...},
    action being use, rename (name), duplicate, delete, or put (place)."""

    def __init__(self, value: Any = None, **kwargs):
        template = '<p class="total" aria-live="polite"></p><ol class="saved"></ol>'
        super().__init__(value=value, html_template=template, js_on_load=_script("saved.js"), **kwargs)


class Pad(_Part):
    """A square between four loops; triggers `input` with {x, y, gesture}, from 0 to 1."""

    def __init__(self, value: Any = None, **kwargs):
        super().__init__(value=value, html_template=_script("pad.html"), js_on_load=_script("pad.js"), **kwargs)

"""The condition panel: what a piece shall be, and whether the prompt or the visitor said so."""

from __future__ import annotations

import html
import secrets
from typing import Any

import gradio as gr
from composer_engine import MAX_BARS, MAX_OUTPUTS, Composer

from partimento.tokenization import FAMILY_PROGRAMS
from partimento.tokenization.conditions import KEYS
from partimento.tokenization.general_midi import PROGRAM_NAMES

ANY, AUTO = "any", "auto"
SLOTS = (
    "genre", "tempo", "key", "instruments", "without", "density", "bars", "num_outputs", "seed", "temperature",
    "top_k", "top_p",
)  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "genre": ANY, "tempo": 0, "key": AUTO, "instruments": [], "without": [], "density": 0, "bars": 16,
    "num_outputs": 2, "seed": -1, "temperature": 1.0, "top_k": 0, "top_p": 0.95,
}  # fmt: skip
INSTRUMENTS = [*FAMILY_PROGRAMS, *PROGRAM_NAMES]
ORIGIN = {"default": "default", "prompt": "from the prompt", "you": "set by you"}


def make_controls(composer: Composer) -> dict[str, Any]:
    """One control per slot, in the current Blocks."""
    controls: dict[str, Any] = {}

    def info(slot):
        return {"info": ORIGIN["default"], "elem_id": slot}

    with gr.Row():
        genres = [ANY, *composer.labels("genre")]
        controls["genre"] = gr.Dropdown(genres, value=ANY, label="Genre", **info("genre"))
        controls["key"] = gr.Dropdown([AUTO, *KEYS], value=AUTO, label="Key", **info("key"))
        controls["tempo"] = gr.Number(0, label="Tempo (24 to 200 bpm; 0: auto)", **info("tempo"))
    with gr.Row():
        many = {"value": [], "multiselect": True}
        controls["instruments"] = gr.Dropdown(INSTRUMENTS, label="Instruments", **many, **info("instruments"))
        controls["without"] = gr.Dropdown(INSTRUMENTS, label="Without", **many, **info("without"))
    with gr.Row():
        controls["bars"] = gr.Slider(4, MAX_BARS, value=16, step=1, label="Bars", **info("bars"))
        controls["num_outputs"] = gr.Slider(1, MAX_OUTPUTS, value=2, step=1, label="Outputs", **info("num_outputs"))
    with gr.Accordion("Sampling", open=False):
        with gr.Row():
            controls["density"] = gr.Number(0, label="Notes per bar (0: auto)", **info("density"))
            controls["seed"] = gr.Number(-1, label="Seed (-1: random)", precision=0, **info("seed"))
        with gr.Row():
            heat = {"value": 1, "step": 0.05, "label": "Temperature"}
            controls["temperature"] = gr.Slider(0.1, 2, **heat, **info("temperature"))
            controls["top_k"] = gr.Slider(0, 100, value=0, step=1, label="Top-k (0: off)", **info("top_k"))
            controls["top_p"] = gr.Slider(0.1, 1, value=0.95, step=0.01, label="Top-p", **info("top_p"))
    return {slot: controls[slot] for slot in SLOTS}


def touch(slot: str):
    """A listener that notes the visitor's hand on a control."""

    def note(origins: dict):
        return {**origins, slot: "you"}, gr.update(info=ORIGIN["you"])

    return note


def read_prompt(composer: Composer, prompt: str, origins: dict) -> list[Any]:
    """What was understood, the prompt, origins, and an update per control; what the visitor set stays."""
    reading = composer.read(prompt)
    found, updates, origins = reading.request(), [], dict(origins)
    for slot in SLOTS:
        if origins.get(slot) == "you":
            updates.append(gr.skip())
            continue
        origins[slot] = "prompt" if slot in found else "default"
        value = found.get(slot, DEFAULTS[slot])
        value = min(max(value, 4), MAX_BARS) if slot == "bars" else value
        updates.append(gr.update(value=value, info=ORIGIN[origins[slot]]))
    kept = [slot for slot in SLOTS if origins.get(slot) == "you" and slot in found and slot != "num_outputs"]
    lines = reading.explain() + [f"note        {slot}: your setting goes before the prompt" for slot in kept]
    if reading.conditions.get("bars", 4) > MAX_BARS or reading.conditions.get("bars", 4) < 4:
        lines.append(f"note        bars: this page writes 4 to {MAX_BARS}")
    text = "\n".join(f"- {html.escape(line)}" for line in lines) if prompt.strip() else ""
    return [text, prompt, origins, *updates]


def reset_controls() -> list[Any]:
    """Origins, the prompt that was read, and an update per control."""
    return [{}, "", *(gr.update(value=DEFAULTS[slot], info=ORIGIN["default"]) for slot in SLOTS)]


def request_of(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the generator; what is neutral is left out, and a seed is drawn where none is named."""
    request = {slot: value for slot, value in values.items() if value not in (None, ANY, AUTO, [], "")}
    for slot, automatic in (("tempo", 0), ("density", 0), ("seed", -1)):
        if request.get(slot) == automatic:
            del request[slot]
    for slot in ("bars", "num_outputs", "seed", "top_k"):
        if slot in request:
            request[slot] = int(request[slot])
    request.setdefault("seed", secrets.randbelow(2**31))
    return request

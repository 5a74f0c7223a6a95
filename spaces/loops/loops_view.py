"""What the page shows of a desk: rolls, sliders, the saved list, download links. Plain values, no Gradio."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from composer_files import data_url
from loops_desk import NOTHING_SAVED, Desk, Visitor
from loops_files import bars_of

from partimento.pipelines import Loop
from partimento.tokenization.drum_classes import DRUM_CLASSES
from partimento.tokenization.general_midi import program_name

LANES = [[pitches[0], name.replace("_", " ")] for name, pitches in reversed(DRUM_CLASSES.items())]  # from the top


def drawn(loop: Loop, title: str, program: int, remark: str = "") -> dict[str, Any]:
    """A loop as one output of a roll; the melody has the chosen General MIDI program."""
    melody = loop.processor.tracks[0] == "melody"
    bars = [[[program if melody and note[0] == 0 else note[0], *note[1:]] for note in bar] for bar in bars_of(loop)]
    shown: dict[str, Any] = {"bars": bars, "total": len(bars), "primer": 0, "caption": remark, "title": title}
    if "drums" in loop.processor.tracks:
        shown |= {"lanes": LANES, "pitched": loop.processor.tracks != ["drums"]}
    return shown


def roll(visitor: Visitor, outputs: Sequence[dict[str, Any]], tempo: float) -> dict[str, Any]:
    """Value of a roll with these outputs."""
    programs = {note[0] for output in outputs for bar in output["bars"] for note in bar}
    names = {str(program): program_name(program) for program in sorted(programs)}
    return {
        "outputs": list(outputs), "selected": 0, "tempo": tempo, "names": names, "range": None,
        "revision": visitor.revision, "ack": visitor.acknowledged,
    }  # fmt: skip


def current_roll(visitor: Visitor, desk: Desk, tempo: float, program: int) -> dict[str, Any]:
    return roll(visitor, [drawn(desk.scene.current, "Current", program)], tempo)


def reference_rolls(visitor: Visitor, desk: Desk, tempo: float, program: int) -> dict[str, Any]:
    """The initial loop, with how it differs from what was read, and the original."""
    scene = desk.scene
    remark = ""
    if scene.original is not None:
        total = scene.original.processor.num_steps
        remark = f"{scene.different} of {total} steps differ from the original, NLL {scene.nll:.2f} nats per step"
    outputs = [drawn(scene.initial, "Initial", program, remark)]
    if scene.original is not None:
        outputs.append(drawn(scene.original, "Original", program))
    return roll(visitor, outputs, tempo)


def slider_values(visitor: Visitor, desk: Desk, mode: str, count: int) -> dict[str, Any]:
    """Value of the sliders: where each stands, exactly."""
    scene, variant = desk.scene, desk.variant
    sliders = [
        {
            "key": slider.key, "name": slider.name, "hint": slider.hint, "low": slider.low, "high": slider.high,
            "value": variant.position(scene.current.z, slider.key, scene.amounts), "locked": slider.key in scene.locked,
        }
        for slider in variant.sliders(mode, count)
    ]  # fmt: skip
    return {"model": variant.name, "sliders": sliders, "revision": visitor.revision, "ack": visitor.acknowledged}


def saved_list(visitor: Visitor, desk: Desk, tempo: float, program: int) -> dict[str, Any]:
    """Value of the saved list."""
    items = [
        {"key": item.key, "name": item.name, "roll": drawn(item.loop, item.name, program)} for item in desk.scene.saved
    ]
    bars = len(items) * desk.variant.generator.num_bars
    loops = f"{len(items)} loop{'s' if len(items) > 1 else ''}"
    total = f"{loops}, {bars} bars, {bars * 240 / tempo:.1f} s" if items else NOTHING_SAVED
    return {"items": items, "total": total, "tempo": tempo, "revision": visitor.revision}


def link(name: str, kind: str, data: bytes) -> str:
    """A link with the file inside: nothing is left on the server."""
    href = data_url(data).replace("audio/midi", kind)
    return f'<a download="{html.escape(name)}" href="{href}">Download {html.escape(name)}</a>'

"""What the page shows of a version: rolls, downloads, and a table of what was requested and measured."""

from __future__ import annotations

import html
from typing import Any

from composer_files import data_url, file_name, settings_json, stems
from composer_sessions import Version

from partimento.pipelines import GeneratedMidi
from partimento.pipelines.instruments import programs_of
from partimento.pipelines.keys import semitones_between
from partimento.tokenization.general_midi import program_name


def roll_value(
    bars: list, total: int, primer_bars: int, tempo: float | None, selected: int, chosen: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The value of a roll: notes by bar and output, the names of the programs, and the chosen bars (from 1)."""
    programs = {note[0] for output in bars for bar in output for note in bar}
    outputs = [
        {
            "bars": output,
            "total": max(total, len(output)),
            "primer": primer_bars,
            "caption": f"bar {len(output)} of {total}" if len(output) < total else "",
        }
        for output in bars
    ]
    names = {str(program): program_name(program) for program in sorted(programs)}
    value = {"outputs": outputs, "selected": selected, "tempo": tempo or 120, "names": names}
    return value | {"range": [selected, *chosen] if chosen else None}


def downloads_html(version: Version, index: int) -> str:
    """Links with the files inside: nothing is left on the server."""
    genre, seed, number = version.request.get("genre"), version.seed, index + 1
    name = file_name(genre, seed, number, "mid")
    facts = {
        "prompt": version.prompt, "action": version.action, "request": version.request, "seed": seed,
        "model": version.model, "measured": version.measured[index], "id": version.number, "parent": version.parent,
    }  # fmt: skip
    files = [
        (".mid", name, version.midi[index], "audio/midi"),
        ("one .mid per track (.zip)", name[:-4] + ".zip", stems(version.midi[index], name[:-4]), "application/zip"),
        (".json", name[:-4] + ".json", settings_json(facts), "application/json"),
    ]
    links = [
        f'<a download="{html.escape(file)}" href="{data_url(data).replace("audio/midi", kind)}">Download {text}</a>'
        for text, file, data, kind in files
    ]
    return " ".join(links)


def report_markdown(version: Version, index: int) -> str:
    """A table of what was requested and what came out."""
    asked, got = version.request, version.measured[index]
    rows = []
    if "tempo" in asked:
        near = abs(got["tempo"] - asked["tempo"]) < 1
        rows.append(("tempo", f"{asked['tempo']:g} bpm", f"{got['tempo']:.4g} bpm", near))
    if "key" in asked:
        rows.append(("key", asked["key"], got.get("key", "drums only"), _key_verdict(asked["key"], got.get("key"))))
    if "instruments" in asked:
        wanted = ", ".join(asked["instruments"])
        rows.append(("instruments", wanted, ", ".join(got["programs"]), _all_play(asked, got)))
    if version.action == "generated":
        rows.append(("bars", str(asked["bars"]), str(got["bars"]), got["bars"] == asked["bars"]))
    if "density" in asked:
        rows.append(("notes per bar", f"{asked['density']:g}", f"{got['density']:.1f}", None))
    lines = ["| | requested | measured | |", "|---|---|---|---|"]
    for name, want, have, hit in rows:
        lines.append(f"| {name} | {want} | {have} | {hit if isinstance(hit, str) else _VERDICTS[hit]} |")
    return "\n".join(lines) if rows else ""


_VERDICTS = {True: "met", False: "missed", None: "a wish"}


def _all_play(asked: dict, got: dict) -> bool:
    """Whether every asked family or program sounds, and no other family."""
    families = {programs_of(name)[0] for name in asked["instruments"]}
    exact = {program_name(programs_of(name)[1][0]) for name in asked["instruments"] if len(programs_of(name)[1]) == 1}
    return families == set(got["instruments"]) and exact <= set(got["programs"])


def _key_verdict(asked: str, got: str | None) -> bool | str:
    """Whether the keys agree; the relative key has the same notes."""
    if got is None or got == asked:
        return got == asked
    return "met (the relative key)" if semitones_between(got, asked) == 0 else False


def measured_facts(piece: GeneratedMidi) -> dict[str, Any]:
    """What came of a piece; `programs` are the names of its tracks."""
    if not piece.score.note_num():
        return {"tempo": 120.0, "bars": 0, "density": 0.0, "instruments": [], "programs": []}
    measured = piece.measured()
    names = [program_name(-1 if track.is_drum else track.program) for track in piece.score.tracks if len(track.notes)]
    return measured | {"programs": names, "bars": piece.num_bars}

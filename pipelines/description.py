"""What a MIDI file or a model is, as a flat table of facts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from partimento.pipelines.generation import resolve_model
from partimento.tokenization import FAMILY_PROGRAMS, EmptyMidiError, MidiError, MidiProcessor
from partimento.tokenization.general_midi import program_name
from partimento.tokenization.reading import read_score

__all__ = ["describe_midi", "describe_model"]


def describe_midi(path: str | Path) -> dict[str, Any]:
    """Facts about a MIDI file: as it is, and, where its metre is 4/4, as the models hear it.

    Raises:
        MidiError: the file cannot be read or holds no notes.
    """
    path = Path(path)
    score, _ = read_score(path)
    if not score.note_num():
        raise EmptyMidiError(str(path), "contains no notes")
    signatures = dict.fromkeys(f"{item.numerator}/{item.denominator}" for item in score.time_signatures)
    programs: Counter[str] = Counter()
    for track in score.tracks:
        programs[program_name(-1 if track.is_drum else track.program)] += len(track.notes)
    facts: dict[str, Any] = {
        "file": str(path),
        "notes": score.note_num(),
        "time_signatures": list(signatures) or ["4/4 (none named)"],
        "tempo": sorted({round(tempo.qpm, 1) for tempo in score.tempos}) or [120.0],
        "tracks": [f"{name} ({count} notes)" for name, count in programs.items() if count],
    }
    processor = MidiProcessor.from_preset("multitrack")
    try:
        piece = processor.load_piece(path)
    except MidiError as error:
        return {**facts, "models": f"cannot take this file: {error.reason}"}
    measured = processor.measure_conditions(piece)
    ids = processor.encode(piece, add_special_tokens=False, max_bars=piece.num_bars, max_tokens=10**9)
    return {
        **facts,
        "bars": piece.num_bars,
        "key": measured.get("key", "none, drums only"),
        "notes_per_bar": round(measured["density"], 1),
        "tokens": len(ids),
    }


def describe_model(name: str) -> dict[str, Any]:
    """Facts about a model folder, an embedded checkpoint or a Hub model.

    Raises:
        ValueError: `name` is no model.
    """
    source = resolve_model(name)
    config = AutoConfig.from_pretrained(source)
    processor = MidiProcessor.from_pretrained(source)
    return {
        "model": name,
        "architecture": config.model_type,
        "parameters": f"{_count_parameters(config):,}",
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocabulary": len(processor.tokenizer),
        "genres": processor.labels("genre"),
        "artists": processor.labels("artist"),
        "moods": processor.labels("mood"),
        "instruments": list(FAMILY_PROGRAMS),
    }


def _count_parameters(config) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())

"""What a MIDI file or a model is, as a flat table of facts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from partimento.pipelines.generation import resolve_model
from partimento.tokenization import FAMILY_PROGRAMS, MidiProcessor
from partimento.tokenization.general_midi import program_name

__all__ = ["describe_midi", "describe_model"]


def describe_midi(path: str | Path) -> dict[str, Any]:
    """Facts about a MIDI file as the tokenizer hears it (quantised to twelfths of a beat).

    Raises:
        MidiError: the file cannot be read or does not fit.
    """
    processor = MidiProcessor.from_preset("multitrack")
    score = processor.load(path)
    ids = processor.encode(score, add_special_tokens=False)
    measured = processor.measure_conditions(score)
    programs = Counter()
    for track in score.tracks:
        programs[program_name(-1 if track.is_drum else track.program)] += len(track.notes)
    return {
        "file": str(path),
        "bars": processor.count_bars(ids),
        "notes": score.note_num(),
        "tokens": len(ids),
        "tempo": round(measured["tempo"], 1),
        "key": measured.get("key"),
        "notes_per_bar": round(measured["density"], 1),
        "tracks": [f"{name} ({count} notes)" for name, count in programs.items() if count],
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

"""What a MIDI file or a model is, as a flat table of facts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils.hub import cached_file

from partimento.modeling.musicvae.modeling_musicvae import ATTRIBUTES_FILE
from partimento.pipelines.generation import read_config, resolve_model
from partimento.pipelines.latent_info import LatentInfo
from partimento.tokenization import FAMILY_PROGRAMS, EmptyMidiError, MidiError, MidiProcessor, MusicVAEProcessor
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
    config = read_config(name)
    if config.model_type == "musicvae":
        return _describe_musicvae(name, source, config)
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


def _describe_musicvae(name: str, source: str, config) -> dict[str, Any]:
    processor = MusicVAEProcessor.from_pretrained(source)
    vectors = cached_file(source, ATTRIBUTES_FILE, _raise_exceptions_for_missing_entries=False)
    latent = LatentInfo.from_pretrained(source)
    facts: dict[str, Any] = {
        "model": name,
        "architecture": config.model_type,
        "parameters": f"{_count_parameters(config, AutoModel):,}",
        "tracks": processor.tracks,
        "bars": config.num_bars,
        "latent_size": config.z_size,
        "pitches": f"{config.pitch_min} to {config.pitch_max}",
        "attributes": sorted(load_file(vectors)) if vectors else [],
    }
    if latent is not None:
        facts["kl_bits"] = round(float(latent.kl_bits.sum()), 1)
    return facts


def _count_parameters(config, auto_class: Any = AutoModelForCausalLM) -> int:
    with torch.device("meta"):
        model = auto_class.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())

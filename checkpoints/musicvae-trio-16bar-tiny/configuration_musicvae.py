"""Hyper-parameters of MusicVAE (Roberts et al., ICML 2018, arXiv 1803.05428), its presets and their validity.

Only architecture and objective are stored; schedules belong to the training recipe. A sequence has one id per step and
track, step by step in the order of the tracks, with disjoint ranges of ids; the id behind all of them is start and
padding at once and is never predicted.
"""

import dataclasses
import difflib

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

NUM_DRUM_IDS = 512
DRUM_ROLL_WIDTH = 10  # nine classes and "no hit"
TRACK_KINDS = ("categorical", "drums")


def melody(vocab_size: int = 90, name: str = "melody") -> dict:
    return {"name": name, "kind": "categorical", "vocab_size": vocab_size}


def drums() -> dict:
    return {"name": "drums", "kind": "drums", "vocab_size": NUM_DRUM_IDS}


MELODY, DRUMS, TRIO = [melody()], [drums()], [melody(), melody(name="bass"), drums()]


def _sizes(encoder, decoder, conductor=(), z_size=512, **more) -> dict:
    return {
        "encoder_hidden_sizes": encoder,
        "decoder_hidden_sizes": decoder,
        "conductor_hidden_sizes": conductor,
        "decoder_type": "hierarchical" if conductor else "flat",
        "z_size": z_size,
        **more,
    }


_TINY = _sizes((128,), (128, 128), z_size=32)
_SMALL = _sizes((512,), (256, 256), z_size=256, max_beta=0.2)
_HIER_TINY = _sizes((128,), (128, 128), (128, 128), z_size=64, num_bars=16)
_FLAT = _sizes((2048, 2048), (2048, 2048, 2048), num_bars=16)
_HIER = _sizes((2048, 2048), (1024, 1024), (1024, 1024), num_bars=16)
# max_beta and free_bits follow the configuration in the reference's code where there is one; tiny ones are ours.
PRESETS = {
    "mel_2bar_tiny": {"tracks": MELODY, **_TINY},
    "mel_2bar_small": {"tracks": MELODY, **_SMALL},
    "mel_2bar_big": {"tracks": MELODY, **_sizes((2048,), (2048, 2048, 2048)), "max_beta": 0.5},
    "drums_2bar_tiny": {"tracks": DRUMS, **_TINY, "free_bits": 48},
    "drums_2bar_small": {"tracks": DRUMS, **_SMALL, "free_bits": 48},
    "mel_16bar_tiny": {"tracks": MELODY, **_HIER_TINY, "free_bits": 256},
    "flat-mel_16bar": {"tracks": MELODY, **_FLAT, "free_bits": 256},
    "hierdec-mel_16bar": {"tracks": MELODY, **_HIER, "free_bits": 256},
    "hierdec-mel_16bar_proj512": {"tracks": MELODY, **_HIER, "free_bits": 256, "conductor_output_size": 512},
    "hierdec-drums_16bar": {"tracks": DRUMS, **_HIER, "free_bits": 256},
    "trio_16bar_tiny": {"tracks": TRIO, **_HIER_TINY, "max_beta": 0.1, "free_bits": 1024},
    "flat-trio_16bar": {"tracks": TRIO, **_FLAT, "max_beta": 0.1, "free_bits": 1024},
    "hierdec-trio_16bar": {"tracks": TRIO, **_HIER, "max_beta": 0.1, "free_bits": 1024},
}


@strict
class MusicVAEConfig(PreTrainedConfig):
    """Configuration of a MusicVAE.

    Args:
        tracks: `{"name", "kind", "vocab_size"}` per track; kind `categorical` (0 no event, 1 note-off, 2 + k note-on of
            `pitch_min` + k) or `drums` (512 sets of nine hits).
        num_bars: bars of a sequence.
        steps_per_bar: grid steps of a bar.
        z_size: dimensions of the latent vector.
        encoder_type: `bilstm`, or `hierarchical_bilstm`: one network reads every bar, the last of
            `encoder_hidden_sizes` then reads the vectors of the bars.
        encoder_hidden_sizes: units per layer and direction.
        decoder_type: `flat` (one network for all tracks) or `hierarchical` (conductor, one network per track).
        decoder_hidden_sizes: units per layer.
        conductor_hidden_sizes: units per layer; empty without conductor.
        conductor_output_size: width of a linear projection of the conductor's output; `None` is none.
        segment_length: steps per state of the conductor.
        carry_last_token: whether a segment's first input is the last token before it; else nothing crosses segments.
        cell_type: `lstm`, or `gru_thesis` (reset before the recurrent product, h = (1 - u) h + u c).
        dropout: between layers.
        control_size: width of a control vector per step, seen by encoder and decoder but not by the conductor.
        pitch_min, pitch_max: MIDI pitches of the categorical tracks.
        max_beta: weight of the KL term at the end of its schedule; the loss uses it unless `forward` is told another.
        free_bits: KL that costs nothing, in bits: of a sequence (`total`) or of each dimension (`per_dim`).
        free_bits_mode: `total` or `per_dim`.
        use_cache: whether `generate` decodes incrementally.
    """

    model_type = "musicvae"
    keys_to_ignore_at_inference = ("past_key_values",)

    tracks: list[dict] | tuple[dict, ...] = ({"name": "melody", "kind": "categorical", "vocab_size": 90},)
    num_bars: int = 2
    steps_per_bar: int = 16
    z_size: int = 256
    encoder_type: str = "bilstm"
    encoder_hidden_sizes: list[int] | tuple[int, ...] = (512,)
    decoder_type: str = "flat"
    decoder_hidden_sizes: list[int] | tuple[int, ...] = (256, 256)
    conductor_hidden_sizes: list[int] | tuple[int, ...] = ()
    conductor_output_size: int | None = None
    segment_length: int = 16
    carry_last_token: bool = True
    cell_type: str = "lstm"
    dropout: float | int = 0.0
    control_size: int = 0
    pitch_min: int = 21
    pitch_max: int = 108
    max_beta: float | int = 0.2
    free_bits: float | int = 0
    free_bits_mode: str = "total"
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    is_encoder_decoder: bool = True
    use_cache: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        names = [field.name for field in dataclasses.fields(self)]
        for name in kwargs:
            if close := difflib.get_close_matches(name, names, n=1, cutoff=0.85):
                raise ValueError(f"MusicVAEConfig has no field `{name}`; did you mean `{close[0]}`?")
        self.tracks = [dict(track) for track in self.tracks]
        for name in ("encoder_hidden_sizes", "decoder_hidden_sizes", "conductor_hidden_sizes"):
            setattr(self, name, tuple(getattr(self, name)))
        if self.pad_token_id is None:
            self.pad_token_id = self.vocab_size
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.vocab_size
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "MusicVAEConfig":
        """Return a preset, such as `mel_2bar_small`, with fields replaced by `overrides`.

        Raises:
            ValueError: unknown preset, or an override that is not a field.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(overrides) - names):
            raise ValueError(f"overrides {unknown} are not among the fields: {', '.join(sorted(names))}")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def vocab_size(self) -> int:
        """Ids that can be predicted, over all tracks."""
        return sum(track.get("vocab_size", 0) for track in self.tracks)

    @property
    def track_offsets(self) -> list[int]:
        """First id of each track."""
        return [sum(track["vocab_size"] for track in self.tracks[:i]) for i in range(len(self.tracks))]

    @property
    def num_steps(self) -> int:
        return self.num_bars * self.steps_per_bar

    @property
    def sequence_length(self) -> int:
        """Ids of a sequence."""
        return self.num_steps * len(self.tracks)

    @property
    def num_segments(self) -> int:
        """Stretches that the decoder starts afresh: 1 when flat."""
        return self.num_steps // self.segment_length if self.decoder_type == "hierarchical" else 1

    @property
    def segment_latent_size(self) -> int:
        """Width of what a segment is decoded from: z, or the conductor's output."""
        if self.decoder_type == "flat":
            return self.z_size
        return self.conductor_output_size or self.conductor_hidden_sizes[-1]

    @property
    def encoder_input_size(self) -> int:
        """Width of the encoder's input without control: drums alone are a roll, everything else is one-hot."""
        alone = len(self.tracks) == 1 and self.tracks[0]["kind"] == "drums"
        return DRUM_ROLL_WIDTH if alone else self.vocab_size

    def validate_tracks(self):
        if not self.tracks:
            raise ValueError("tracks is empty: give at least one")
        for track in self.tracks:
            if set(track) != {"name", "kind", "vocab_size"} or track["kind"] not in TRACK_KINDS:
                raise ValueError(f"track {track} must have name, vocab_size and a kind among {', '.join(TRACK_KINDS)}")
            pitched = self.pitch_max - self.pitch_min + 3
            expected = NUM_DRUM_IDS if track["kind"] == "drums" else pitched
            if track["vocab_size"] != expected:
                raise ValueError(
                    f"track {track['name']!r} has vocab_size={track['vocab_size']}, but drums have {NUM_DRUM_IDS} ids "
                    f"and pitches {self.pitch_min} ... {self.pitch_max} have {pitched}"
                )
        if len({track["name"] for track in self.tracks}) < len(self.tracks):
            raise ValueError(f"tracks must have different names: {[track['name'] for track in self.tracks]}")

    def validate_token_ids(self):
        for name in ("pad_token_id", "decoder_start_token_id"):
            if getattr(self, name) != self.vocab_size:
                raise ValueError(f"{name}={getattr(self, name)} must be the id behind all tracks, {self.vocab_size}")

    def validate_choices(self):
        for name, choices in (
            ("encoder_type", ("bilstm", "hierarchical_bilstm")),
            ("decoder_type", ("flat", "hierarchical")),
            ("cell_type", ("lstm", "gru_thesis")),
            ("free_bits_mode", ("total", "per_dim")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}")

    def validate_sizes(self):
        for name in ("num_bars", "steps_per_bar", "z_size", "segment_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("encoder_hidden_sizes", "decoder_hidden_sizes", "conductor_hidden_sizes"):
            sizes = getattr(self, name)
            if any(size < 1 for size in sizes) or (not sizes and name != "conductor_hidden_sizes"):
                raise ValueError(f"{name}={sizes} must be positive and not empty")
        if (self.decoder_type == "hierarchical") != bool(self.conductor_hidden_sizes):
            raise ValueError(
                f"decoder_type={self.decoder_type!r} with conductor_hidden_sizes={self.conductor_hidden_sizes}: a "
                "hierarchical decoder has a conductor, a flat one has none"
            )
        if self.conductor_output_size is not None and not (
            self.conductor_hidden_sizes and self.conductor_output_size > 0
        ):
            raise ValueError(
                f"conductor_output_size={self.conductor_output_size} needs a conductor and must be positive"
            )
        if self.decoder_type == "hierarchical" and self.num_steps % self.segment_length:
            raise ValueError(
                f"segment_length={self.segment_length} must divide the {self.num_steps} steps of {self.num_bars} bars"
            )
        if self.encoder_type == "hierarchical_bilstm" and len(self.encoder_hidden_sizes) < 2:
            raise ValueError("encoder_type='hierarchical_bilstm' needs two encoder_hidden_sizes: within and over bars")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")
        if self.control_size < 0 or self.max_beta < 0 or self.free_bits < 0:
            raise ValueError("control_size, max_beta and free_bits must not be negative")
        if not 0 <= self.pitch_min <= self.pitch_max <= 127:
            raise ValueError(f"pitch_min={self.pitch_min}, pitch_max={self.pitch_max} must be MIDI pitches in order")
        if not self.is_encoder_decoder or self.tie_word_embeddings:
            raise ValueError("is_encoder_decoder must stay True and tie_word_embeddings False")


__all__ = ["MusicVAEConfig"]

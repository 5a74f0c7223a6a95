"""Named, stateless endpoints of the Loops Space for `gradio_client`. MIDI travels as base64, points as lists."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import gradio as gr
import torch
from loops_desk import FEWEST_STEPS, METHODS, MOST_MADE, MOST_STEPS, seed_of, settings_of, whole, within
from loops_files import bars_of, check_z, midi_of
from loops_models import RequestError, Shop, checked
from loops_reading import MAX_UPLOAD_BYTES, check_upload, plain_words, sentence_for

from partimento.modeling.musicvae.latent_musicvae import vary
from partimento.pipelines import Loop

MAX_DECODED = 32
_SETTINGS = {"model", "temperature", "seed", "tempo"}


def add_endpoints(shop: Shop) -> None:
    """Registers /describe, /encode, /decode, /sample, /interpolate, /similar and /attribute on the current Blocks."""

    def describe() -> dict:
        """The models of this Space, their latent spaces, and the limits."""
        with refusals(), shop.lock:
            return {"models": [_facts(shop, name) for name in shop.names], "max_loops": MAX_DECODED,
                    "max_upload_bytes": MAX_UPLOAD_BYTES}  # fmt: skip

    def encode(midi: str, window: dict | None = None) -> dict:
        """The point of a window of a MIDI file: {z, original, remarks, fingerprint}.

        Args:
            midi: the file in base64, at most 2 MB.
            window: model, bar (from 1; default the first usable one), track (number from 1, or "all"), any_metre.
        """
        with refusals(), shop.lock:
            asked = allowed(window, {"model", "bar", "track", "any_metre"})
            variant = shop.variant(asked.pop("model", None))
            data, any_metre, bar = decoded(midi), bool(asked.get("any_metre")), asked.get("bar")
            bars, _ = check_upload(variant.generator, data, any_metre)
            bar = None if bar is None else whole(bar, 1, bars)
            track = None if asked.get("track") is None else str(asked["track"])
            with plain_words():
                loop = variant.generator.read(data, bar=bar, track=track, any_metre=any_metre)
            return {"z": loop.z.tolist(), "original": answer(loop), "remarks": list(loop.remarks),
                    "fingerprint": variant.fingerprint}  # fmt: skip

    def decode(z: list, settings: dict | None = None) -> list:
        """Loops of one point or of up to 32: a list of {z, notes, num_notes, seed, midi}.

        Args:
            z: numbers of one point, or a list of points.
            settings: model, temperature (0), seed (random), tempo (120).
        """
        with refusals(), shop.lock:
            variant, how = begin(settings)
            many = z if z and isinstance(z[0], list) else [z]
            if len(many) > MAX_DECODED:
                raise RequestError(f"Give at most {MAX_DECODED} points.")
            points = torch.stack([check_z(variant, point) for point in many])
            return [answer(loop) for loop in variant.decode(points, how.temperature, how.seed, how.tempo)]

    def sample(count: int = 1, settings: dict | None = None) -> list:
        """Loops drawn from the prior; values as of /decode.

        Args:
            count: 1 to 16.
            settings: as of /decode; the temperature is 0.5 unless given.
        """
        with refusals(), shop.lock:
            seed = seed_of((settings or {}).get("seed"))
            variant, how = begin({"temperature": 0.5} | allowed(settings))
            count = whole(count, 1, MOST_MADE)
            loops = variant.generator.sample(count, temperature=how.temperature, seed=seed, tempo=how.tempo)
            return [answer(loop) for loop in loops]

    def interpolate(
        first: list, last: list, count: int = 8, method: str = "linear", settings: dict | None = None
    ) -> list:
        """Loops from one point to another, both included; values as of /decode.

        Args:
            first: the first point.
            last: the last point.
            count: 2 to 32.
            method: linear, or slerp along the great circle.
            settings: as of /decode.
        """
        with refusals(), shop.lock:
            variant, how = begin(settings)
            ends = [check_z(variant, point) for point in (first, last)]
            if method not in METHODS:
                raise RequestError(f"Choose a method among {', '.join(METHODS)}.")
            path = variant.generator.model.interpolate(*ends, whole(count, FEWEST_STEPS, MOST_STEPS), method)
            return [answer(loop) for loop in variant.decode(path, how.temperature, how.seed, how.tempo)]

    def similar(z: list, count: int = 4, similarity: float = 0.8, settings: dict | None = None) -> list:
        """Relatives s z + sqrt(1 - s^2) eps of a point; values as of /decode.

        Args:
            z: the point.
            count: 1 to 16.
            similarity: s, from 0 (unrelated) to 1 (the same).
            settings: as of /decode; the seed draws eps.
        """
        with refusals(), shop.lock:
            seed = seed_of((settings or {}).get("seed"))
            variant, how = begin(allowed(settings) | {"seed": seed})
            shape = (whole(count, 1, MOST_MADE), variant.z_size)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            points = vary(check_z(variant, z), within(similarity, 0, 1, "similarity"), noise)
            return [answer(loop, seed) for loop in variant.decode(points, how.temperature, seed, how.tempo)]

    def attribute(z: list, amounts: dict, settings: dict | None = None) -> list:
        """A point moved along attribute vectors, as a list of one value of /decode.

        Args:
            z: the point.
            amounts: attribute -> factor, from -1.5 to 1.5, such as {"note_density": 1.0}.
            settings: as of /decode.
        """
        with refusals(), shop.lock:
            variant, how = begin(settings)
            point = check_z(variant, z)
            if not isinstance(amounts, dict) or not amounts:
                raise RequestError(f"amounts must be an object with some of {', '.join(variant.generator.attributes)}.")
            for name, amount in amounts.items():
                with plain_words():
                    point = variant.generator.model.apply_attribute(point, name, checked(amount))
            return [answer(loop) for loop in variant.decode(point, how.temperature, how.seed, how.tempo)]

    def begin(settings: dict | None) -> tuple[Any, Any]:
        """(model, settings) of a request."""
        asked = allowed(settings)
        variant = shop.variant(asked.get("model"))
        return variant, settings_of(asked.get("temperature"), asked.get("seed"), asked.get("tempo"))

    model = {"concurrency_id": "model", "concurrency_limit": 1}
    gr.api(describe, api_name="describe", queue=False)
    for function in (encode, decode, sample, interpolate, similar, attribute):
        gr.api(function, api_name=function.__name__, **model)


def _facts(shop: Shop, name: str) -> dict[str, Any]:
    variant = shop.variant(name)
    return {
        "name": name, "title": variant.title,
        "tracks": variant.generator.tracks, "bars": variant.generator.num_bars, "z_size": variant.z_size,
        "attributes": list(variant.generator.attributes), "fingerprint": variant.fingerprint,
        "parameters": variant.parameters,
    }  # fmt: skip


def answer(loop: Loop, seed: int | None = None) -> dict[str, Any]:
    """A loop for a client; notes are [program (-1: drums), pitch, start in beats, length in beats, velocity]."""
    return {
        "z": loop.z.tolist(),
        "notes": [note for bar in bars_of(loop) for note in bar],
        "num_notes": loop.num_notes,
        "seed": loop.seed if seed is None else seed,
        "midi": base64.b64encode(midi_of([loop], loop.tempo)).decode("ascii"),
    }


def allowed(settings: dict | None, names: set[str] = _SETTINGS) -> dict[str, Any]:
    """The settings, checked by name."""
    if settings is not None and not isinstance(settings, dict):
        raise RequestError('settings must be an object such as {"temperature": 0.5}.')
    if unknown := set(settings or {}) - names:
        listed = ", ".join(sorted(names))
        raise RequestError(f"Unknown settings: {', '.join(sorted(map(str, unknown)))}. Known: {listed}.")
    return dict(settings or {})


def decoded(midi: Any) -> bytes:
    """The bytes of a file in base64."""
    if isinstance(midi, str) and len(midi) > 4 * MAX_UPLOAD_BYTES // 3 + 4:
        raise RequestError(f"The file is too large; the limit is {MAX_UPLOAD_BYTES:,} bytes.")
    try:
        return base64.b64decode(midi, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise RequestError("midi must be a file in base64.") from None


class refusals:  # noqa: N801 - a context manager, used like a function
    """A refused request reaches the visitor or client as its sentence; errors of the program as one that says nothing
    about it, and the log has them."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if isinstance(error, RequestError):
            raise gr.Error(str(error), print_exception=False) from None
        if isinstance(error, Exception) and not isinstance(error, gr.Error):
            raise gr.Error(sentence_for(RuntimeError())) from error
        return False

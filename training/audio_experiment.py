"""Raw audio from an LSTM, value by value: why it whistles. Classes, squared error, and blocks of the spectrum.

    OMP_NUM_THREADS=1 python training/audio_experiment.py --midi out/demo.mid -o runs/audio

repeats the audio experiment of J. Roman Morales, "Redes recurrentes para el analisis de series temporales" (UAM, 2018):
an LSTM of 100 units reads a WAV (its first channel, silence at the ends removed) in three forms,

    classes      values divided by 300, the integer part (208 classes there); softmax, cross-entropy
    regression   the values themselves; squared error
    fourier      real and imaginary parts of the spectrum of blocks of 1,024 values; squared error; inverse transform

and goes on alone. All three whistled, at 44.1 kHz, 30 epochs and 100,000 values. The printed code fed probabilities
back and took the likeliest class; here the classes are decoded in three ways (a drawn class, the likeliest class, and
probabilities fed back), which tells the model's part from the decoder's. Windows of 100 steps follow each other in
64 lanes and carry their state; the last tenth is held out.

Give --wav, or --midi, which is rendered (fluidsynth where it is installed, else sines). Defaults are scaled for a CPU:
20 seconds at 11,025 Hz; the report says what was used. `--rate 44100 --seconds 0` is the published scale.

Writes report.json, report.md, plot.png, source.wav and a WAV of every model and decoder. A negative result, kept.
"""

import argparse
import hashlib
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from partimento.modeling import RecurrentConfig, RecurrentForCausalLM
from partimento.training.audio_report import audio_findings, audio_markdown, describe_signal, plot_audio
from partimento.training.audio_signals import Classes, Vectors, read_wav, render_midi, trim, write_wav
from partimento.training.checkpointing import write_atomically
from partimento.training.experiment_recipes import parse_with_recipe
from partimento.training.ngram import NGramModel
from partimento.training.reports import write_report

FORMS = ("classes", "regression", "fourier")
DECODERS = {"classes": ("sample", "argmax", "soft_feedback"), "regression": ("mean",), "fourier": ("mean",)}


@dataclass(frozen=True)
class AudioSettings:
    """What a run depends on, beside the signal and its form."""

    epochs: int = 30
    hidden_size: int = 100
    window: int = 100
    lanes: int = 64
    block: int = 1024
    learning_rate: float = 1e-3
    held_out: float = 0.1
    seed: int = 0


class AudioRun:
    """One form; goes on from `<folder>/<form>.pt` where there is one."""

    def __init__(self, form: str, values: np.ndarray, settings: AudioSettings, folder: Path):
        self.form, self.settings = form, settings
        self.path = folder / f"{form}.pt"
        cut = int(len(values) * (1 - settings.held_out))
        self.form_of = Classes.of(values) if form == "classes" else Vectors.of(values[:cut], self.block)
        self.train = torch.from_numpy(self.form_of.encode(values[:cut]))
        self.held_out = torch.from_numpy(self.form_of.encode(values[cut:]))
        if min(len(self.train), len(self.held_out)) < 3:
            raise ValueError(f"{form}: {len(values)} values are too few, {len(self.held_out)} steps are held out")
        torch.manual_seed(settings.seed)
        tokens = form == "classes"
        self.model = RecurrentForCausalLM(
            RecurrentConfig(
                vocab_size=self.form_of.count if isinstance(self.form_of, Classes) else 2,
                cell_type="lstm",
                hidden_size=settings.hidden_size,
                num_hidden_layers=1,
                input_mode="one_hot" if tokens else "embedding",
                head_type="categorical" if tokens else "gaussian",
                embedding_size=1 if isinstance(self.form_of, Classes) else self.form_of.size,
                pad_token_id=None,
                bos_token_id=None,
                eos_token_id=None,
                bar_token_id=None,
            )
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self.losses: list[float] = []
        self.seconds = 0.0
        if self.path.is_file():
            content = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.losses, self.seconds = content["losses"], content["seconds"]

    @property
    def block(self) -> int:
        """Values of a step's spectrum; 0: a step is a value."""
        return self.settings.block if self.form == "fourier" else 0

    def call(self, steps: torch.Tensor, targets: torch.Tensor | None, cache: Any) -> Any:
        """The model on ids `[B, n]` or vectors `[B, n, d]`."""
        name = "input_ids" if self.form == "classes" else "inputs_embeds"
        return self.model(**{name: steps}, shift_labels=targets, past_key_values=cache, use_cache=True)

    def train_to_the_end(self, progress: tqdm) -> None:
        """Make all epochs: every lane reads its part of the signal once, from the zero state."""
        window = self.settings.window
        lanes = max(1, min(self.settings.lanes, (len(self.train) - 1) // (window + 1)))
        length = (len(self.train) - 1) // lanes
        part = self.train[: lanes * length].unflatten(0, (lanes, length))
        following = self.train[1 : lanes * length + 1].unflatten(0, (lanes, length))
        self.model.train()
        progress.update(len(self.losses))
        while len(self.losses) < self.settings.epochs:
            started, total, cache = time.perf_counter(), 0.0, None
            for start in range(0, length, window):
                steps, targets = part[:, start : start + window], following[:, start : start + window]
                output = self.call(steps, targets, cache)
                cache = output.past_key_values.detach_()
                self.optimizer.zero_grad()
                output.loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
                self.optimizer.step()
                total += output.loss.item() * steps.shape[1] / length
            self.losses.append(total)
            self.seconds += time.perf_counter() - started
            content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            temporary = self.path.with_suffix(".tmp")
            torch.save({**content, "losses": self.losses, "seconds": self.seconds}, temporary)
            temporary.replace(self.path)
            progress.update()
            progress.set_postfix_str(f"loss {total:.4f}")

    @torch.inference_mode()
    def predictions(self, steps: torch.Tensor) -> torch.Tensor:
        """Logits or means `[n - 1, size]` for what follows each step, read from the zero state."""
        self.model.eval()
        cache, parts = None, []
        for start in range(0, len(steps) - 1, 2_000):
            output = self.call(steps[None, start : min(start + 2_000, len(steps) - 1)], None, cache)
            cache = output.past_key_values
            parts.append(output.logits[0])
        return torch.cat(parts)

    def held_out_figures(self) -> dict[str, float]:
        """Loss on the held-out part, in nats a step, beside what needs no network.

        Classes: beside an interpolated trigram model of the training part. Vectors: nats of Gaussians whose variances
        are the mean squared errors on the training part, and `error`, the mean squared error over that of repeating the
        last step (below 1 is better than standing still).
        """
        predicted, truth = self.predictions(self.held_out), self.held_out[1:]
        if isinstance(self.form_of, Classes):
            trigram = NGramModel.fit([self.train.numpy()], order=3, vocab_size=self.form_of.count)
            baseline = trigram.token_nll([self.held_out.numpy()])[0][1:]
            nats = torch.nn.functional.cross_entropy(predicted, truth).item()
            return {"nats": nats, "baseline": float(baseline.mean())}
        before = self.predictions(self.train)
        variance = ((before - self.train[1:]) ** 2).mean(0).clamp(min=1e-12)
        still = ((self.train[1:] - self.train[:-1]) ** 2).mean(0).clamp(min=1e-12)
        error, standing = (predicted - truth) ** 2, (self.held_out[1:] - self.held_out[:-1]) ** 2
        return {
            "nats": gaussian_nats(error, variance),
            "baseline": gaussian_nats(standing, still),
            "error": float(error.mean() / standing.mean()),
        }

    @torch.inference_mode()
    def generate(self, decoder: str, count: int) -> np.ndarray:
        """`count` values behind the first steps of the signal, which are not part of them."""
        self.model.eval()
        generator = torch.Generator().manual_seed(self.settings.seed)
        output = self.call(self.train[None, : self.settings.window], None, None)
        drawn = []
        for _ in range(math.ceil(count / max(1, self.block))):
            last = output.logits[:, -1:]
            if self.form == "classes":
                probabilities = last[:, 0].softmax(-1)
                likeliest = probabilities.argmax(-1, keepdim=True)
                step = torch.multinomial(probabilities, 1, generator=generator) if decoder == "sample" else likeliest
                drawn.append(step[0])
                if decoder == "soft_feedback":
                    arguments = {"inputs_embeds": probabilities[:, None]}
                else:
                    arguments = {"input_ids": step}
            else:
                drawn.append(last[0])
                arguments = {"inputs_embeds": last}
            output = self.model(**arguments, past_key_values=output.past_key_values, use_cache=True)
        return self.form_of.decode(torch.cat(drawn).numpy().astype(np.int64 if self.form == "classes" else np.float64))[
            :count
        ]


def gaussian_nats(squared: torch.Tensor, variance: torch.Tensor) -> float:
    """Mean over steps of the negative log-likelihood of independent Gaussians, the components added."""
    return float((0.5 * (torch.log(2 * math.pi * variance) + squared / variance)).sum(1).mean())


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wav", type=Path, help="PCM file of 16 bits; its first channel is read")
    source.add_argument("--midi", type=Path, help="MIDI file to render")
    parser.add_argument("--synthesiser", choices=("auto", "fluidsynth", "numpy"), default="auto", help="for --midi")
    parser.add_argument("--rate", type=int, default=11_025, help="Hz of the rendered MIDI file (default 11,025)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the signal that are used (default 20; 0: all)")
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=list(FORMS), help="which of the models (default: all three)"
    )
    parser.add_argument("--epochs", type=int, default=30, help="published: 30")
    parser.add_argument("--values", type=int, default=20_000, help="values to generate (default 20,000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and windows (default 0)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of runs, sounds and report")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_with_recipe(make_parser(), argv, "audio_experiment")
    try:
        experiment(options, sys.argv[1:] if argv is None else list(argv))
    except (ValueError, OSError) as error:
        print(f"audio_experiment.py: {error}", file=sys.stderr)
        return 2
    return 0


def experiment(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Train what is not trained, let every model go on alone, and report."""
    if min(options.epochs, options.values, options.rate) < 1 or options.seconds < 0:
        raise ValueError("--epochs, --values, --rate: give positive numbers; --seconds 0 or more")
    values, rate, origin = read_source(options)
    settings = AudioSettings(epochs=options.epochs, seed=options.seed)
    folder = options.output / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
    signal = {"origin": origin, "rate": rate, "values": len(values), "sha256": digest}
    check_same(options.output / "settings.json", {**asdict(settings), **signal})
    write_wav(values, rate, options.output / "source.wav")
    sounds: dict[str, np.ndarray] = {}
    runs: dict[str, Any] = {}
    with tqdm(total=len(options.forms) * settings.epochs, unit="epoch") as progress:
        for form in options.forms:
            progress.set_description(form)
            run = AudioRun(form, values, settings, folder)
            run.train_to_the_end(progress)
            for decoder in DECODERS[form]:
                kept = folder / f"{form}-{decoder}-{options.values}.npy"
                if not kept.is_file():
                    np.save(kept.with_suffix(".tmp.npy"), run.generate(decoder, options.values))
                    kept.with_suffix(".tmp.npy").replace(kept)
                sounds[f"{form}, {decoder}"] = np.load(kept)
                write_wav(sounds[f"{form}, {decoder}"], rate, options.output / f"{form}-{decoder}.wav")
            runs[form] = {
                "parameters": run.model.num_free_parameters(),
                "steps": len(run.train),
                "seconds": run.seconds,
                "losses": run.losses,
                "held_out": run.held_out_figures(),
                **({"classes": run.form_of.count} if isinstance(run.form_of, Classes) else {"size": run.form_of.size}),
            }
    report: dict[str, Any] = {
        "command": f"python training/audio_experiment.py {shlex.join(command)}",
        "settings": asdict(settings),
        "signal": {**signal, "different": len(np.unique(values)), **describe_signal(values, rate)},
        "runs": runs,
        "sounds": {name: {"values": len(sound), **describe_signal(sound, rate)} for name, sound in sounds.items()},
    }
    report["findings"] = audio_findings(report)
    text = audio_markdown(report)
    plot_audio(report, {"source": values, **sounds}, rate, options.output / "plot.png")
    write_report(options.output / "report.json", report, text)
    print(text)


def read_source(options: argparse.Namespace) -> tuple[np.ndarray, int, str]:
    """The trimmed signal, its rate, and where it comes from."""
    if options.wav:
        (values, rate), origin = read_wav(options.wav), options.wav.name
    else:
        (values, by), rate = render_midi(options.midi, options.rate, options.synthesiser), options.rate
        origin = f"{options.midi.name}, rendered by {by}"
    values = trim(values)
    return values[: int(options.seconds * rate)] if options.seconds else values, rate, origin


def check_same(path: Path, wanted: dict[str, Any]) -> None:
    """Write the settings of a new folder; refuse runs of other settings beside those of an old one."""
    if not path.is_file():
        write_atomically(path, json.dumps(wanted, indent=1))
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if different := sorted(key for key in wanted if before.get(key) != wanted[key]):
        raise ValueError(f"{path.parent}: its runs differ in {', '.join(different)}; give another --output")


if __name__ == "__main__":
    sys.exit(main())

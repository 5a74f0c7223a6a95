"""Figures, findings and pictures of the audio experiment, published beside obtained."""

from pathlib import Path
from typing import Any

import numpy as np

from partimento.training.audio_signals import (
    frame_powers,
    peak_autocorrelation,
    spectral_flatness,
    strongest_frequency,
)
from partimento.training.reports import markdown_table

# Roman Morales (UAM, 2018), section on audio: one WAV of 1:44 at 44.1 kHz.
PUBLISHED = {
    "classes": "208 classes, 144,608 parameters, 30 epochs, 100,000 values: a periodic whistle",
    "regression": "a whistle",
    "fourier": "a whistle; the block size is not given",
}
WHISTLE = 0.9  # peak autocorrelation from which a sound is called periodic
SILENCE = 100.0  # deviation of 16-bit values below which it is called silent


def describe_signal(values: np.ndarray, rate: int) -> dict[str, float]:
    """Deviation of the 16-bit values, spectral flatness, peak autocorrelation, strongest frequency in Hz.

    Of the second half: what stands there is no longer an answer to the beginning that was given.
    """
    later = values[len(values) // 2 :]
    return {
        "deviation": float(np.std(later)),
        "flatness": spectral_flatness(later),
        "autocorrelation": peak_autocorrelation(later, rate),
        "frequency": strongest_frequency(later, rate),
    }


def verdict(found: dict[str, float]) -> str:
    """What a sound is, by its figures."""
    if found["deviation"] < SILENCE:
        return "silence, a constant value"
    return "periodic, a whistle" if found["autocorrelation"] >= WHISTLE else "not periodic"


def obtained(report: dict[str, Any], form: str) -> dict[str, str]:
    """What the sounds of a form are, by decoder."""
    sounds = report["sounds"].items()
    return {name.partition(", ")[2]: verdict(found) for name, found in sounds if name.startswith(f"{form}, ")}


def audio_findings(report: dict[str, Any]) -> list[str]:
    """Which of the published results appear, and whose fault they are."""
    sentences = []
    of_classes = obtained(report, "classes")
    if len(set(of_classes.values())) > 1:
        sentences.append("The decoder decides: one and the same model of classes gives different kinds of sound.")
    elif of_classes:
        sentences.append("All decoders of the classes give the same kind of sound: it is the model's.")
    for form, run in report["runs"].items():
        held_out = run["held_out"]
        than = "a trigram model" if form == "classes" else "repeating the last step"
        word = "better" if held_out["nats"] < held_out["baseline"] else "worse"
        sentences.append(
            f"{form} predicts held-out steps {word} than {than} ({held_out['nats']:.3f} and {held_out['baseline']:.3f} "
            "nats a step), which says little about the sound that it makes alone."
        )
    return sentences


def audio_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    signal, settings = report["signal"], report["settings"]
    lines = [
        "# Raw audio, value by value\n",
        f"`{report['command']}`\n",
        f"{signal['origin']}: {signal['values']:,} values at {signal['rate']:,} Hz, "
        f"{signal['values'] / signal['rate']:.1f} s (published: 3,983,918 values at 44,100 Hz), "
        f"{signal['different']:,} different ones; SHA-256 {signal['sha256'][:16]}. {settings['epochs']} epochs, LSTM "
        f"of {settings['hidden_size']} units, windows of {settings['window']} steps in up to {settings['lanes']} "
        f"lanes, state carried; the last {settings['held_out']:.0%} held out.\n",
    ]
    rows = [
        [
            form,
            *(run["parameters"], run.get("classes"), run["steps"], run["losses"][0], run["losses"][-1]),
            *(run["held_out"].get(key) for key in ("nats", "baseline", "error")),
            run["seconds"] / 60,
        ]
        for form, run in report["runs"].items()
    ]
    header = ["form", "parameters", "classes", "training steps", "loss, first epoch", "loss, last epoch"]
    header += ["held out, nats a step", "without a network", "squared error over standing still", "minutes"]
    lines.append(markdown_table(header, rows))
    lines.append(
        "Without a network: a trigram model of the classes; for vectors, the last step repeated. Nats of vectors are "
        "densities of standardised values and may be negative; forms cannot be compared by them.\n"
    )
    columns = ("deviation", "flatness", "autocorrelation", "frequency")
    every = {"source": signal, **report["sounds"]}
    rows = [[name, *(found[key] for key in columns), verdict(found)] for name, found in every.items()]
    header = ["sound, second half", "deviation", "spectral flatness", "peak autocorrelation", "strongest, Hz", "is"]
    lines.append(markdown_table(header, rows))
    rows = [
        [form, PUBLISHED[form], "; ".join(f"{name}: {what}" for name, what in obtained(report, form).items())]
        for form in report["runs"]
    ]
    lines += ["## Findings\n", markdown_table(["form", "published", "obtained"], rows)]
    lines += [*(f"- {sentence}" for sentence in report["findings"]), ""]
    return "\n".join(lines)


def plot_audio(report: dict[str, Any], sounds: dict[str, np.ndarray], rate: int, image: Path) -> None:
    """Training loss; 30 ms of every sound; its mean power spectrum."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.6 * len(sounds) + 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(sounds) + 1, 2, height_ratios=[2.0] + [1.0] * len(sounds))
    axis = figure.add_subplot(grid[0, :])
    for form, run in report["runs"].items():
        losses = np.array(run["losses"])
        axis.plot(range(1, len(losses) + 1), losses / losses[0], marker=".", label=form)
    axis.set(xlabel="epoch", ylabel="training loss over that of epoch 1")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    for row, (name, values) in enumerate(sounds.items(), start=1):
        wave, spectrum = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
        middle = len(values) // 2
        shown = values[middle : middle + int(0.03 * rate)]
        wave.plot(np.arange(len(shown)) / rate * 1000, shown, linewidth=0.8)
        wave.set_ylabel(name, fontsize=8)
        power = frame_powers(values[middle:], 1024).mean(0) + 1e-3
        spectrum.semilogy(np.arange(len(power)) * rate / 1024, power, linewidth=0.8)
    wave.set_xlabel("ms, from the middle")
    spectrum.set_xlabel("Hz, mean power")
    figure.savefig(image, dpi=100)

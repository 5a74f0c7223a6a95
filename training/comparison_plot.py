"""The six panels of a comparison of families of models."""

from pathlib import Path
from typing import Any

import numpy as np

from partimento.training.form_comparison import HELD_OUT


def plot_comparison(report: dict[str, Any], image: str | Path) -> None:
    """Learning curves, loss by bar, length and position, samples against held-out songs, and speed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    models = report["models"]
    colours = {name: f"C{number}" for number, name in enumerate(models)}
    draw_curves(axes[0, 0], models, colours)
    draw_bars(axes[0, 1], models, colours)
    draw_lengths(axes[0, 2], models, colours)
    draw_samples(axes[1, 0], report.get("form"), colours)
    draw_copies(axes[1, 1], report.get("form"), colours)
    draw_speed(axes[1, 2], models, colours)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(image, dpi=100)


def draw_curves(axis: Any, models: dict[str, Any], colours: dict[str, str]) -> None:
    for name, model in models.items():
        if points := [point for point in model["curve"] if point[0] > 0]:
            tokens, losses = np.array(points).T
            axis.plot(tokens / 1e6, losses, marker=".", color=colours[name], label=name)
    axis.set(xlabel="training tokens, millions", ylabel="nats per token", title="validation")


def draw_bars(axis: Any, models: dict[str, Any], colours: dict[str, str]) -> None:
    for name, model in models.items():
        means = [entry["nats_per_token"]["mean"] for entry in model["by_bar"].values()]
        spread = [entry["nats_per_token"]["deviation"] or 0.0 for entry in model["by_bar"].values()]
        axis.errorbar(
            range(len(means)), means, yerr=spread, marker="o", ms=4, capsize=3, color=colours[name], label=name
        )
    names = list(next(iter(models.values()))["by_bar"])
    axis.set_xticks(range(len(names)), names)
    axis.set(xlabel="bar of the song", ylabel="nats per token", title="held-out songs, by bar")


def draw_lengths(axis: Any, models: dict[str, Any], colours: dict[str, str]) -> None:
    groups = next(iter(models.values()))["by_length"]
    width = 0.8 / len(models)
    for number, (name, model) in enumerate(models.items()):
        means = [entry["bits_per_bar"]["mean"] for entry in model["by_length"].values()]
        places = np.arange(len(means)) - 0.4 + width * (number + 0.5)
        axis.bar(places, means, width, color=colours[name], label=name)
    axis.set_xticks(range(len(groups)), [f"{name}\n{entry['songs']} songs" for name, entry in groups.items()])
    axis.set(xlabel="tokens of the song", ylabel="bits per bar", title="held-out songs, by length")


def draw_samples(axis: Any, form: dict[str, Any] | None, colours: dict[str, str]) -> None:
    axis.set(title="samples: overlapping area with held-out songs", ylim=(0, 1))
    areas = {n: f["overlap"]["overlapping_area"] for n, f in sets_of(form).items() if f.get("overlap")}
    known = {name: area for name, area in areas.items() if area is not None}
    axis.bar(range(len(known)), list(known.values()), color=[colours[name] for name in known])
    axis.set_xticks(range(len(known)), list(known), fontsize=8)


def draw_copies(axis: Any, form: dict[str, Any] | None, colours: dict[str, str]) -> None:
    for name, figures in sets_of(form).items():
        lengths = np.sort(figures["copies"]["notes"]["each"])
        shares = np.arange(len(lengths), 0, -1) / len(lengths)
        style = {"color": "0.4", "linewidth": 2} if name == HELD_OUT else {"color": colours[name]}
        axis.step(lengths, shares, where="pre", label=name.replace("_", " "), **style)
    axis.set(xlabel="notes", ylabel="share of pieces at least so long", title="longest span of a training song")


def draw_speed(axis: Any, models: dict[str, Any], colours: dict[str, str]) -> None:
    for name, model in models.items():
        if model["curve"] and model["speed"]["training"]:
            place = (model["speed"]["training"]["mean"], model["speed"]["generation"]["mean"])
            axis.plot(*place, "o", color=colours[name])
            axis.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axis.set(xlabel="training, tokens a second", ylabel="generation, ms a token", title="speed of the networks")
    axis.margins(0.2)


def sets_of(form: dict[str, Any] | None) -> dict[str, Any]:
    return form["sets"] if form else {}

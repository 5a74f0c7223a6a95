"""One comparison of trained variants: means over seeds, differences on the same songs, a table and a plot."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partimento.training.likelihood import PREFIX_LENGTHS
from partimento.training.reports import format_cell, markdown_table
from partimento.training.run_log import read_log

CONDITIONS = "all_conditions"
FIGURES = ("nats_per_token", "bits_per_bar", "bits_per_note", *(f"ppl_{n}" for n in PREFIX_LENGTHS))


def compare_runs(folders: Mapping[str, Mapping[int, Path]], split: str) -> dict[str, Any]:
    """Read the runs of each model, by seed, and put their figures side by side.

    Returns:
        `models`: by name, `figures` (each value by seed, their `mean` and, from two seeds on, `deviation` with divisor
        n - 1), `positions` (loss by place in the song), `difference` from the first model, `training` and `curve`.
    """
    runs = {name: {seed: read_run(folder, split) for seed, folder in seeds.items()} for name, seeds in folders.items()}
    first = next(iter(runs.values()))
    models = {}
    for name, seeds in runs.items():
        figures = {key: over_seeds([run["likelihood"][key] for run in seeds.values()]) for key in FIGURES}
        errors = [run["similarity_error"] for run in seeds.values()]
        for tracks in ("melody", "all"):
            values = [error[tracks] for error in errors if error is not None and error[tracks] is not None]
            if len(values) == len(errors):
                figures[f"similarity_error_{tracks}"] = over_seeds(values)
        models[name] = {
            "figures": figures,
            "positions": {
                place: over_seeds([run["positions"][place]["nats_per_token"] for run in seeds.values()])
                for place in next(iter(seeds.values()))["positions"]
            },
            "difference": paired_difference(
                [run["by_song"] for run in seeds.values()], [first[seed]["by_song"] for seed in seeds]
            ),
            "training": {
                key: over_seeds([run["training"][key] for run in seeds.values()])
                for key in next(iter(seeds.values()))["training"]
            },
            "parameters": next(iter(seeds.values()))["parameters"],
            "curve": mean_curve([run["curve"] for run in seeds.values()]),
        }
    about = next(iter(first.values()))
    return {"songs": about["likelihood"]["songs"], "fingerprint": about["fingerprint"], "models": models}


def read_run(folder: Path, split: str) -> dict[str, Any]:
    """What one trained model achieved, from its reports and its log."""
    report = json.loads((folder / "likelihood.json").read_text(encoding="utf-8"))
    figures = report["splits"][split]
    entries = list(read_log(folder / "log.jsonl"))
    train = [entry for entry in entries if entry["kind"] == "train"]
    validation = [entry for entry in entries if entry["kind"] == "validation"]
    samples = folder / "samples.json"
    errors = None
    if samples.is_file():
        similarity = json.loads(samples.read_text(encoding="utf-8"))["form"]["sets"]
        sets = [figures["similarity"] for name, figures in similarity.items() if name != "held_out"]
        errors = (
            {tracks: sets[0][tracks]["pooled"]["similarity_error"] for tracks in ("melody", "all")} if sets else None
        )
    return {
        "likelihood": figures["model"][CONDITIONS],
        "positions": {name: entry["model"][CONDITIONS] for name, entry in figures["by_position"].items()},
        "by_song": figures["by_song"]["model"][CONDITIONS],
        "fingerprint": figures["fingerprint"],
        "parameters": report["parameters"],
        "training": {
            "updates": max(entry["update"] for entry in entries),
            "tokens": train[-1]["tokens_seen"] if train else 0,
            "seconds": train[-1]["seconds"] if train else 0.0,
        },
        "curve": [[entry["update"], float(entry["nll"])] for entry in validation],
        "similarity_error": errors,
    }


def over_seeds(values: list[float]) -> dict[str, Any]:
    """The values, their mean, and their standard deviation where there are several."""
    array = np.array(values, dtype=np.float64)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else None
    return {"each": [float(value) for value in values], "mean": float(array.mean()), "deviation": deviation}


def paired_difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, float | None]:
    """Nats per token of a model less those of another on the same songs, seeds taken together.

    Of each song the losses of all seeds are averaged; `standard_error` is that of the ratio of sums with songs as
    units: it says how far other songs could change the figure, not how far other seeds could.

    Raises: ValueError: other songs.
    """
    tokens = np.array(ours[0]["tokens"], dtype=np.float64)
    if any(run["tokens"] != ours[0]["tokens"] for run in [*ours, *theirs]):
        raise ValueError("the models were scored on different songs: remove their likelihood.json and run again")
    nats = [np.mean([run["nats"] for run in runs], axis=0) for runs in (ours, theirs)]
    mean, error = ratio_with_error(nats[0] - nats[1], tokens)
    return {"nats_per_token": mean, "standard_error": error}


def ratio_with_error(amounts: np.ndarray, units: np.ndarray) -> tuple[float, float | None]:
    """Ratio of the sums over songs, and its standard error by linearisation (None for one song)."""
    ratio, count = amounts.sum() / units.sum(), len(amounts)
    if count < 2:
        return float(ratio), None
    return float(ratio), float(np.sqrt(count / (count - 1) * ((amounts - units * ratio) ** 2).sum()) / units.sum())


def mean_curve(curves: list[list[list[float]]]) -> list[list[float]]:
    """Validation loss by update, mean over the seeds that have reached it."""
    updates = sorted({int(update) for curve in curves for update, _ in curve})
    by_update = [{int(u): value for u, value in curve} for curve in curves]
    return [[u, float(np.mean([curve[u] for curve in by_update if u in curve]))] for u in updates]


def ablation_markdown(report: dict[str, Any]) -> str:
    """The comparison as tables."""
    models, seeds = report["models"], len(report["seeds"])
    titles = {f"ppl_{n}": f"PPL({n:,})" for n in PREFIX_LENGTHS}
    titles |= {"nats_per_token": "nats per token", "bits_per_bar": "bits per bar"}
    if all("similarity_error_all" in model["figures"] for model in models.values()):
        titles |= {"similarity_error_melody": "SE melody", "similarity_error_all": "SE all tracks"}
    first = next(iter(models))
    rows = []
    for name, model in models.items():
        difference = model["difference"]
        cells = [with_deviation(model["figures"][key]) for key in titles]
        gap = "–" if name == first else f"{difference['nats_per_token']:+.4f}"
        if name != first and difference["standard_error"] is not None:
            gap += f" ± {difference['standard_error']:.4f}"
        rows.append([name, *cells, gap])
    budget = [
        [
            name,
            model["parameters"],
            *(int(model["training"][key]["mean"]) for key in ("updates", "tokens")),
            model["training"]["seconds"]["mean"] / 60,
        ]
        for name, model in models.items()
    ]
    places = list(next(iter(models.values()))["positions"])
    by_place = [[n, *(with_deviation(m["positions"][p]) for p in places)] for n, m in models.items()]
    spread = "One seed: nothing is known of the spread over seeds."
    if seeds > 1:
        spread = f"± after a figure: standard deviation over {seeds} seeds."
    return "\n".join(
        [
            f"# Ablations on {report['corpus']}, {report['songs']} songs of {report['split']}, seeds "
            f"{', '.join(map(str, report['seeds']))}\n",
            f"`{report['command']}`\n",
            markdown_table(["", *titles.values(), f"nats per token less {first}'s"], rows),
            f"{spread} ± after the difference: standard error over songs.\n",
            markdown_table(["nats per token by position in the song", *places], by_place),
            markdown_table(["budget", "parameters", "updates", "tokens", "minutes of training"], budget),
        ]
    )


def with_deviation(figure: dict[str, Any]) -> str:
    text = format_cell(figure["mean"])
    return text if figure["deviation"] is None else f"{text} ± {figure['deviation']:.4f}"


def plot_ablations(report: dict[str, Any], image: str | Path) -> None:
    """Draw validation loss by update, and loss by position in the song."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, model in report["models"].items():
        curve = [point for point in model["curve"] if point[0] > 0] or model["curve"]
        left.plot([update for update, _ in curve], [loss for _, loss in curve], marker=".", label=name)
        means = [entry["mean"] for entry in model["positions"].values()]
        spread = [entry["deviation"] or 0.0 for entry in model["positions"].values()]
        right.errorbar(range(len(means)), means, yerr=spread, marker="o", capsize=3, label=name)
    left.set(xlabel="update", ylabel="nats per token", title="validation")
    right.set_xticks(range(len(means)), list(next(iter(report["models"].values()))["positions"]))
    right.set(xlabel="token of the song", ylabel="nats per token", title=f"{report['split']}, by position in the song")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(image, dpi=110)

"""One comparison of families of models: what is read from their runs, and the tables that are made of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from partimento.training.ablation_report import over_seeds, ratio_with_error, with_deviation
from partimento.training.comparison_findings import findings
from partimento.training.form_comparison import HELD_OUT
from partimento.training.likelihood import INTERVALS, LN2, interval_name
from partimento.training.metrics.descriptors import DESCRIPTORS
from partimento.training.reports import markdown_table
from partimento.training.run_log import read_log

CONDITIONS = "all_conditions"
FIGURES = ("nats_per_token", "bits_per_bar", "bits_per_note", "ppl_1024", "ppl_5120", "ppl_10240")
GROUPS = {
    "by_length": ("nats_per_token", "bits_per_bar"),
    "by_position": ("nats_per_token",),
    "by_bar": ("nats_per_token", "bits_per_bar"),
}
COLUMNS = {
    "nats_per_token": "nats per token",
    "bits_per_bar": "bits per bar",
    "bits_per_note": "bits per note",
    "ppl_1024": "PPL(1,024)",
    "ppl_10240": "PPL(10,240)",
}


def read_models(plan: Mapping[str, Mapping[int, Path]], split: str, reference: str) -> dict[str, Any]:
    """Read the reports and logs of all models, by seed.

    Args:
        plan: by model and seed, the folder with likelihood.json, samples.json, speed.json and, of a trained model,
            log.jsonl and config.yaml.
        reference: the model that the others are compared with, song by song.

    Returns:
        `songs`, `fingerprint` and, by model, `parameters`, `reads`, `figures`, `by_length`, `by_position`, `by_bar`,
        `difference` and `difference_by_length` in bits per bar, `training`, `curve`, `checks` and `speed`. Figures hold
        the value of each seed, their mean and deviation.
    Raises:
        ValueError: the models were scored on different songs.
    """
    runs = {name: {seed: read_run(folder, split) for seed, folder in seeds.items()} for name, seeds in plan.items()}
    everything = [run for seeds in runs.values() for run in seeds.values()]
    if len({run["fingerprint"] for run in everything}) > 1 or len({run["max_tokens"] for run in everything}) > 1:
        raise ValueError("the models were scored on different songs: remove their likelihood.json and run again")
    theirs = list(runs[reference].values())
    return {
        "songs": everything[0]["likelihood"]["songs"],
        "fingerprint": everything[0]["fingerprint"],
        "models": {name: merge_seeds(list(seeds.values()), theirs) for name, seeds in runs.items()},
    }


def read_run(folder: Path, split: str) -> dict[str, Any]:
    """The figures of one model and seed."""
    report = read_json(folder / "likelihood.json")
    figures = report["splits"][split]
    row = "model" if "model" in figures else "ngram"
    speed, samples = read_json(folder / "speed.json"), folder / "samples.json"
    trained = folder if (folder / "log.jsonl").is_file() else Path(report["model"] or "").parent  # of a given model
    ngram = report["ngram"][CONDITIONS] if row == "ngram" else None
    return {
        "likelihood": figures[row][CONDITIONS],
        **{group: {name: entry[row][CONDITIONS] for name, entry in figures[group].items()} for group in GROUPS},
        "by_song": figures["by_song"][row][CONDITIONS],
        "fingerprint": figures["fingerprint"],
        "max_tokens": report["max_tokens"],
        "parameters": sum(ngram["ngrams"]) if ngram else report["parameters"],
        "speed": speed,
        "checks": read_json(samples)["modes"]["constrained"] if samples.is_file() else None,
        **(read_ngram(report) if ngram else read_training(trained)),
    }


def read_ngram(report: dict[str, Any]) -> dict[str, Any]:
    """What an n-gram model has read."""
    about = report["ngram"][CONDITIONS]
    return {
        "reads": f"n-grams of up to {report['ngram']['order']} tokens counted in {about['train_songs']:,} songs",
        "training": {"updates": 0, "tokens": about["train_tokens"], "seconds": about["seconds"]},
        "curve": [],
    }


def read_training(folder: Path) -> dict[str, Any]:
    """How a network was trained, from the log and the settings of its run; empty where they are not known."""
    if not ((folder / "log.jsonl").is_file() and (folder / "config.yaml").is_file()):
        return {"reads": "unknown", "training": None, "curve": []}
    entries = list(read_log(folder / "log.jsonl"))
    train = [entry for entry in entries if entry["kind"] == "train"]
    seen = {0: 0} | {entry["update"]: entry["tokens_seen"] for entry in train}
    last = train[-1] if train else {"update": 0, "tokens_seen": 0, "seconds": 0.0}
    validation = [entry for entry in entries if entry["kind"] == "validation"]
    tokens = np.interp([entry["update"] for entry in validation], list(seen), list(seen.values()))
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    window, data = settings.get("bptt", {}), settings["data"]
    if window.get("window"):
        state = "the state carried" if window["carry"] else "from the zero state"
        reads = f"whole songs in windows of {window['window']:,} tokens, {window['lanes']} lanes, {state}"
    else:
        reads = f"crops of up to {data['crop_length']:,} tokens, {data['max_tokens_per_batch']:,} tokens a batch"
    return {
        "reads": reads,
        "training": {"updates": last["update"], "tokens": last["tokens_seen"], "seconds": last["seconds"]},
        "curve": [[float(t), float(entry["nll"])] for t, entry in zip(tokens, validation)],
    }


def merge_seeds(runs: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One entry of a model with several seeds."""
    first = runs[0]
    merged: dict[str, Any] = {
        "parameters": first["parameters"],
        "reads": first["reads"],
        "figures": {key: over_seeds([run["likelihood"][key] for run in runs]) for key in FIGURES},
    }
    for group, keys in GROUPS.items():
        merged[group] = {
            name: {
                "songs": entry["songs"],
                **{key: over_seeds([run[group][name][key] for run in runs]) for key in keys},
            }
            for name, entry in first[group].items()
        }
    ours, theirs = ([run["by_song"] for run in side] for side in (runs, reference))
    merged["difference"] = bits_per_bar_difference(ours, theirs)
    merged["difference_by_length"] = {
        interval_name(above, up_to): difference
        for above, up_to in INTERVALS
        if (difference := bits_per_bar_difference(ours, theirs, above, up_to)) is not None
    }
    merged["training"] = first["training"] and {
        key: over_seeds([run["training"][key] for run in runs]) for key in first["training"]
    }
    merged["curve"] = mean_curve([run["curve"] for run in runs])
    merged["checks"] = [run["checks"] for run in runs if run["checks"]]
    merged["speed"] = {
        "clock": first["speed"]["clock"],
        "training": first["speed"]["training"]
        and over_seeds([run["speed"]["training"]["tokens_per_second"] for run in runs]),
        "generation": over_seeds([run["speed"]["generation"]["milliseconds_per_token"] for run in runs]),
    }
    return merged


def bits_per_bar_difference(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], above: int = 0, up_to: int | None = None
) -> dict[str, Any] | None:
    """Bits per bar of a model less those of another on the same songs, each averaged over its seeds.

    Args:
        above, up_to: only songs whose supervised tokens number within this interval; None is returned without any.
    Returns:
        `bits_per_bar` and `standard_error` with songs as units: how far other songs could change it, not other seeds.
    """
    tokens = np.array(ours[0]["tokens"])
    chosen = (tokens > above) & (tokens <= (up_to or np.inf))
    if not chosen.any():
        return None
    nats = [np.mean([run["nats"] for run in runs], axis=0)[chosen] for runs in (ours, theirs)]
    ratio, error = ratio_with_error((nats[0] - nats[1]) / LN2, np.array(ours[0]["bars"], dtype=np.float64)[chosen])
    return {"songs": int(chosen.sum()), "bits_per_bar": ratio, "standard_error": error}


def mean_curve(curves: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Validation loss by training tokens; of several seeds the mean of points of equal number, as far as all go."""
    points = [np.array(some) for some in zip(*curves)]
    return [[float(value) for value in point.mean(0)] for point in points]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def comparison_markdown(report: dict[str, Any], image: str) -> str:
    """The report for people."""
    models, reference = report["models"], report["reference"]
    parts = [
        "# Families of models on the same music\n",
        f"`{report['command']}`\n",
        f"{report['songs']} songs of the split {report['split']} of {report['corpus']} (fingerprint "
        f"{report['fingerprint']}), at most {report['max_tokens']:,} tokens of each, behind all known conditions; the "
        f"same tokens, vocabulary and split for all. Seeds: {', '.join(map(str, report['seeds']))}. "
        f"Training budget: {report['tokens']:,} tokens a model.\n",
        "\n".join(f"- {sentence}" for sentence in findings(report)) + "\n",
        f"![curves and figures]({image})\n",
        "## Held-out loss\n",
        main_table(models, reference),
        "± behind a difference: standard error over songs. ± behind any other figure: deviation over seeds.\n"
        if len(report["seeds"]) > 1
        else "± behind a difference: standard error over songs. One seed: nothing is known of the spread over seeds.\n",
        group_table("bits per bar, by tokens of the song", models, "by_length", "bits_per_bar"),
        difference_table(models, reference),
        group_table("bits per bar, by bar of the song", models, "by_bar", "bits_per_bar"),
        group_table("nats per token, by position in the song", models, "by_position", "nats_per_token"),
        "## How they were trained\n",
        training_table(models),
        "Recurrent networks read whole songs in windows and carry their state on; Transformers read crops that begin "
        "and end at bar lines, with the number of bars before the crop. The n-gram model has no parameters but counts: "
        "the number given is that of its n-grams.\n",
    ]
    if report.get("form"):
        parts += ["## Samples\n", *sample_tables(report)]
    return "\n".join(parts)


def main_table(models: dict[str, Any], reference: str) -> str:
    rows = []
    for name, model in models.items():
        gap = "–" if name == reference else signed(model["difference"])
        rows.append([name, model["parameters"], *(with_deviation(model["figures"][key]) for key in COLUMNS), gap])
    return markdown_table(["", "parameters", *COLUMNS.values(), f"bits per bar less {reference}'s"], rows)


def signed(difference: dict[str, Any]) -> str:
    error = difference["standard_error"]
    return f"{difference['bits_per_bar']:+.2f}" + ("" if error is None else f" ± {error:.2f}")


def group_table(title: str, models: dict[str, Any], group: str, key: str) -> str:
    first = next(iter(models.values()))[group]
    header = [title, *(f"{name} ({entry['songs']} songs)" for name, entry in first.items())]
    rows = [[name, *(with_deviation(entry[key]) for entry in model[group].values())] for name, model in models.items()]
    return markdown_table(header, rows)


def difference_table(models: dict[str, Any], reference: str) -> str:
    names = list(models[reference]["difference_by_length"])
    rows = [
        [name, *(signed(model["difference_by_length"][group]) for group in names)]
        for name, model in models.items()
        if name != reference
    ]
    return markdown_table([f"bits per bar less {reference}'s, by tokens of the song", *names], rows)


def training_table(models: dict[str, Any]) -> str:
    rows = []
    for name, model in models.items():
        training, speed = model["training"], model["speed"]
        known = [None] * 3
        if training:
            known = [
                int(training["tokens"]["mean"]),
                int(training["updates"]["mean"]),
                training["seconds"]["mean"] / 60,
            ]
        rate = speed["training"] and round(speed["training"]["mean"])
        rows.append([name, model["reads"], *known, rate, speed["generation"]["mean"]])
    clocks = ", ".join(sorted({model["speed"]["clock"] for model in models.values()}))
    header = ["", "reads", "tokens", "updates", "minutes (wall clock)", "training, tokens/s", "generation, ms/token"]
    return markdown_table(header, rows) + f"\nBoth speeds: {clocks}.\n"


def sample_tables(report: dict[str, Any]) -> list[str]:
    """Figures of the samples, beside held-out songs of the same number of bars and all training songs."""
    form, about = report["form"], report["samples"]
    sets = form["sets"]
    names = list(DESCRIPTORS)
    titles = [name.replace("_", " ") for name in names]
    rows = [["training songs", None, *(form["training"]["descriptors"][name] for name in names), None]]
    rows += [
        [label(name), figures["pieces"], *(figures["descriptors"][key] for key in [*names, "frechet_distance"])]
        for name, figures in sets.items()
    ]
    means = markdown_table(["mean over pieces", "pieces", *titles, "Fréchet distance to training"], rows)
    rows = [
        [
            name,
            f["overlap"]["overlapping_area"],
            *((f["overlap"]["each"][k] or {}).get("overlapping_area") for k in names),
        ]
        for name, f in sets.items()
        if "overlap" in f
    ]
    overlap = markdown_table(["overlapping area with held-out songs", "mean", *titles], rows)
    rows = [
        [
            label(name),
            *(f["copies"][kind][key] for kind in ("notes", "tokens") for key in ("median", "longest")),
            f["copies"]["notes"]["median_share"],
            *(f["similarity"][tracks]["pooled"]["similarity_error"] for tracks in ("melody", "all")),
        ]
        for name, f in sets.items()
    ]
    header = ["longest span of a training song", "notes, median", "notes, longest", "tokens, median", "tokens, longest"]
    header += ["share of the notes, median", "similarity error, melody", "similarity error, all tracks"]
    text = (
        f"{about['count']} samples of {about['bars']} bars for each model and seed, the same requests for all, with "
        "grammar, tempo, instruments and number of bars kept by the sampler, as `partimento generate` does. Held-out "
        "songs are cut to the same number of bars. The Fréchet distance is biased upwards for few pieces: compare only "
        "rows of equally many.\n"
    )
    return [text, means, overlap, markdown_table(header, rows)]


def label(name: str) -> str:
    return "held-out songs" if name == HELD_OUT else name

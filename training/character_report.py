"""Tables and curves of the character experiment, published figures beside the obtained ones."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento.training.character_text import PHRASES, surface_figures
from partimento.training.reports import markdown_table

# Roman Morales (UAM, 2018): 500,000 steps on Don Quijote, alphabet of 80, one run each, costs as figures only.
PUBLISHED = {
    ("rnn_tanh", False): {"parameters": 26_180, "steps_per_second": 140, "finding": "irregular, rises after 200,000"},
    ("rnn_tanh", True): {"parameters": 26_180, "steps_per_second": 138, "finding": "falls throughout"},
    ("gru_thesis", None): {"parameters": 62_380, "steps_per_second": 71, "finding": "lower and smoother than the RNN"},
    ("lstm", None): {"parameters": 80_480, "steps_per_second": 62, "finding": "lowest cost, slowest"},
}
PUBLISHED_STEPS = 500_000
ORDER = ("lstm", "gru_thesis", "rnn_tanh")  # from the lowest published cost to the highest
RISE = 0.02  # of the lowest smoothed cost: what is less is the moving average's noise


@dataclass
class RunRecord:
    """How far a run is; what it has found."""

    cell: str
    clip: float | None
    seed: int
    step: int = 0
    position: int = 0  # in the training text
    smoothed: float | None = None
    curve: list[dict[str, float]] = field(default_factory=list)  # step, smoothed cost, largest norm since the last
    norm_max: float = 0.0
    norm_recent: float = 0.0
    seconds: float = 0.0
    diverged_at: int | None = None
    parameters: int = 0
    held_out_bits: float | None = None
    known_words: float | None = None
    sample: str = ""
    done: bool = False

    @property
    def name(self) -> str:
        return f"{self.cell}-{'free' if self.clip is None else f'clip{self.clip:g}'}-seed{self.seed}"


def make_report(
    records: Sequence[RunRecord],
    settings: dict[str, Any],
    facts: dict[str, Any],
    train_text: str = "",
    phrases: Sequence[str] = PHRASES,
) -> dict[str, Any]:
    """Group the runs of equal cell and clipping; every figure keeps its seeds in their order.

    Args:
        train_text: the text that was learned, whose surface stands beside that of the samples.
    """
    groups: dict[tuple[str, float | None], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.cell, record.clip), []).append(record)
    rows = []
    for (cell, clip), runs in groups.items():
        published = PUBLISHED.get((cell, clip is not None)) or PUBLISHED.get((cell, None)) or {}
        seconds = sum(run.seconds for run in runs)
        rows.append(
            {
                "cell": cell,
                "clip": clip,
                "seeds": [run.seed for run in runs],
                "parameters": runs[0].parameters,
                "final_cost": [run.smoothed if run.diverged_at is None else None for run in runs],
                "held_out_bits": [run.held_out_bits for run in runs],
                "norm_max": [run.norm_max for run in runs],
                "diverged_at": [run.diverged_at for run in runs],
                "known_words": [run.known_words for run in runs],
                "course": course(runs),
                "surface": surface_figures("\n".join(run.sample for run in runs), phrases),
                "steps_per_second": sum(run.step for run in runs) / seconds if seconds else None,
                "published": published,
                "samples": [run.sample for run in runs],
            }
        )
    return {
        "settings": settings,
        "text": facts,
        "published_steps": PUBLISHED_STEPS,
        "rows": rows,
        "training_surface": surface_figures(train_text, phrases),
        **findings(rows),
        "claims": claims(rows),
    }


def course(runs: Sequence[RunRecord]) -> str:
    """What the smoothed cost does, over seeds: falls to the end, rises again by more than `RISE`, or diverges."""
    words = []
    for run in runs:
        costs = [point["cost"] for point in run.curve]
        low = min(range(len(costs)), key=costs.__getitem__, default=0)
        if run.diverged_at is not None:
            words.append(f"diverges at {run.diverged_at:,}")
        elif costs and costs[-1] > costs[low] * (1 + RISE):
            words.append(f"rises by {costs[-1] - costs[low]:.2f} after {int(run.curve[low]['step']):,}")
        else:
            words.append("falls to the end")
    return ", ".join(words) if len(set(words)) > 1 else f"{words[0]} ({len(words)} of {len(words)} seeds)"


def findings(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Which of the published orderings the means over seeds show; None where a run is missing or has diverged."""
    bits = {(row["cell"], row["clip"]): mean(row["held_out_bits"]) for row in rows}
    clips = sorted({clip for _, clip in bits}, key=lambda clip: (clip is None, clip))
    order, gain = {}, {}
    for clip in clips:
        values = [bits.get((cell, clip)) for cell in ORDER]
        known = all(value is not None for value in values)
        order[clip_name(clip)] = values == sorted(values) if known else None  # type: ignore[type-var]
    for cell, clip in bits:
        free, clipped = bits.get((cell, None)), bits[cell, clip]
        if clip is not None and free is not None and clipped is not None:
            gain[f"{cell}, {clip_name(clip)}"] = free - clipped
    return {"published_order_holds": order, "bits_gained_by_clipping": gain}


def claims(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each published statement and what the runs show of it, seed by seed."""
    cost = {(row["cell"], row["clip"]): row["final_cost"] for row in rows}
    rates = {row["cell"]: row["steps_per_second"] for row in rows}  # of the last threshold of each cell
    sentences = []
    for (cell, clip), free in cost.items():
        if clip is not None:
            continue
        broken = sum(value is None for value in free)
        sentences.append(f"Without clipping {broken} of {len(free)} runs of {cell} diverge.")
        for other in sorted(c for name, c in cost if name == cell and c is not None):
            pairs = [(a, b) for a, b in zip(cost[cell, other], free) if a is not None]
            wins = sum(b is None or a < b for a, b in pairs)
            idle = sum(a == b for a, b in pairs)
            sentences.append(
                f"Clipping at {other:g} ends in a lower cost of {cell} with {wins} of {len(pairs)} seeds"
                + (f"; in {idle} it never acted." if idle else ".")
            )
    for clip in dict.fromkeys(clip for _, clip in cost):
        for better, worse in itertools.pairwise(ORDER):
            pairs = list(zip(cost.get((better, clip), ()), cost.get((worse, clip), ())))
            if pairs:
                wins = sum(a is not None and (b is None or a < b) for a, b in pairs)
                name = clip_name(clip)
                sentences.append(f"Cost of {better} below that of {worse}, {name}: {wins} of {len(pairs)} seeds.")
    known = [cell for cell in reversed(ORDER) if rates.get(cell)]
    if len(known) > 1:
        listed = ", ".join(f"{cell} {rates[cell]:.0f}" for cell in known)
        sentences.append(
            f"Steps a second, published order fastest first (140, 71, 62): {listed}. Here LSTM and tanh RNN run in "
            "fused kernels, the thesis' GRU step by step, and other programs may share the machine: no order of speed "
            "follows."
        )
    return sentences


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None if any value is missing: a mean over the runs that survived would flatter."""
    return None if not values or None in values else statistics.fmean(value for value in values if value is not None)


def clip_name(clip: float | None) -> str:
    return "no clipping" if clip is None else f"clipped at {clip:g}"


def per_seed(values: Sequence[float | None], digits: str = ".3f") -> str:
    return ", ".join("diverged" if value is None else format(value, digits) for value in values)


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    text, settings = report["text"], report["settings"]
    share = settings["steps"] / report["published_steps"]
    lines = [
        "# Characters: cells with and without clipping",
        "",
        f"`{report['command']}`",
        "",
        f"{text['file']}: {text['symbols']:,} symbols ({text['unit']}), {text['alphabet']} different ones, the last "
        f"{text['held_out_symbols']:,} held out; SHA-256 {text['sha256'][:16]}. {settings['steps']:,} steps of "
        f"{settings['window']} symbols a run, {share:.2%} of the published {report['published_steps']:,}.",
        "",
        "Cost: nats per symbol of the training text, moving average with weight 0.999, at the last step. Held out: "
        "bits per symbol. One figure per seed.",
        "",
    ]
    header = ["cell", "clipping", "parameters", "cost", "held out", "largest norm", "known words", "steps/s"]
    rows = [
        [
            row["cell"],
            clip_name(row["clip"]),
            row["parameters"],
            per_seed(row["final_cost"]),
            per_seed(row["held_out_bits"]),
            per_seed(row["norm_max"], ".3g"),
            per_seed(row["known_words"], ".0%"),
            row["steps_per_second"],
        ]
        for row in report["rows"]
    ]
    lines += [
        markdown_table(header, rows),
        "",
        "Published (alphabet of 80, one seed, costs as figures) beside obtained:",
        "",
    ]
    header = ["cell", "clipping", "parameters, published", "obtained", "steps/s, published", "obtained"]
    header += ["cost, published", "cost, obtained"]
    rows = [
        [
            row["cell"],
            clip_name(row["clip"]),
            *(row["published"].get("parameters"), row["parameters"]),
            *(row["published"].get("steps_per_second"), row["steps_per_second"]),
            *(row["published"].get("finding"), row["course"]),
        ]
        for row in report["rows"]
    ]
    lines += [markdown_table(header, rows), ""]
    words = {True: "yes", False: "no", None: "cannot be said (a run is missing or diverged)"}
    for name, holds in report["published_order_holds"].items():
        lines.append(f"- Held-out order LSTM < GRU < RNN, {name}: {words[holds]}.")
    for name, gain in report["bits_gained_by_clipping"].items():
        lines.append(f"- {name}: {gain:+.3f} bits per symbol better than without clipping (mean over seeds).")
    lines += [*(f"- {sentence}" for sentence in report["claims"]), "", *surface_table(report)]
    lines += ["## Samples of the first seed", ""]
    for row in report["rows"]:
        lines += [f"{row['cell']}, {clip_name(row['clip'])}:", "", "```text", row["samples"][0][:300], "```", ""]
    return "\n".join(lines)


def surface_table(report: dict[str, Any]) -> list[str]:
    """What the training text has of the thesis' marks of a good sample, beside the samples of all seeds."""
    training = report["training_surface"]
    names = [name for name, value in training.items() if value]
    if not names:
        return []
    rows = [["training text", *(training[name] for name in names)]]
    rows += [
        [f"{row['cell']}, {clip_name(row['clip'])}", *(row["surface"][name] for name in names)]
        for row in report["rows"]
    ]
    return ["## Surface of the samples", "", markdown_table(["", *names], rows), ""]


def draw_curves(records: Sequence[RunRecord], image: Path) -> None:
    """Write a PNG: smoothed cost above, gradient norms before clipping below, a column per clipping threshold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clips = list(dict.fromkeys(record.clip for record in records))
    cells = list(dict.fromkeys(record.cell for record in records))
    figure = Figure(figsize=(5 * len(clips), 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(clips), sharex=True, sharey="row", squeeze=False)
    for record in records:
        column, color = clips.index(record.clip), f"C{cells.index(record.cell)}"
        steps = [point["step"] for point in record.curve]
        label = record.cell if record.seed == min(r.seed for r in records) else None
        for axis, key in zip(axes[:, column], ("cost", "norm")):
            axis.plot(steps, [point[key] for point in record.curve], color=color, linewidth=0.9, label=label)
            if record.diverged_at is not None and steps:
                axis.plot(steps[-1], record.curve[-1][key], "x", color=color)
    for axis, clip in zip(axes[0], clips):
        axis.set_title(clip_name(clip))
    axes[0, 0].set_ylabel("cost, nats per symbol")
    axes[1, 0].set_ylabel("largest gradient norm")
    for axis in axes[1]:
        axis.set_yscale("log")
        axis.set_xlabel("step")
    axes[0, 0].legend()
    temporary = image.with_name(f".tmp-{image.name}")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(image)

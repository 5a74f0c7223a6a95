"""How far back does the loss of a token reach? Gradient norm by lag of a recurrent model on held-out songs.

    OMP_NUM_THREADS=1 python training/gradient_by_lag.py --corpus build/corpus -o runs/gradient-by-lag.json

For the loss L_t of one token, ||dL_t / ds_{t-k}|| for k = 1 ... --lags, s the state that a layer hands on to its next
step (of an LSTM h and the memory together), as the geometric mean over rows; beside it the same model with new weights.
A state that has no gradient cannot be taught to remember. The spectral radius of each gate's recurrent matrix W stands
below: of a vanilla RNN the gradient shrinks at least like its powers where it is below 1 (Pascanu et al., 2013, arXiv
1211.5063); gates make it say less.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from partimento.checkpoints import embedded_checkpoint
from partimento.modeling import RecurrentForCausalLM
from partimento.modeling.recurrent.cells_recurrent import RecurrentCell
from partimento.training.reports import markdown_table, write_report
from partimento.training.songs import read_songs

GATES = {
    "rnn_tanh": ("h",),
    "rnn_relu": ("h",),
    "gru": ("reset", "update", "candidate"),
    "gru_thesis": ("reset", "update", "candidate"),
    "lstm": ("input", "forget", "memory", "output"),
    "lstm_peephole": ("input", "forget", "memory", "output"),
}
TINY = 1e-30


def draw_rows(songs: Sequence[np.ndarray], rows: int, length: int, seed: int) -> torch.Tensor:
    """`[rows, length]` ids from random places of songs that are long enough.

    Raises:
        ValueError: no song has `length` tokens.
    """
    usable = [ids for ids in songs if len(ids) >= length]
    if not usable:
        raise ValueError(f"no song has {length} tokens: lower --lags")
    rng = np.random.default_rng(seed)
    chosen = [usable[i] for i in rng.integers(len(usable), size=rows)]
    starts = [int(rng.integers(len(ids) - length + 1)) for ids in chosen]
    return torch.from_numpy(np.stack([ids[s : s + length] for ids, s in zip(chosen, starts)]).astype(np.int64))


def gradient_norms(model: RecurrentForCausalLM, rows: torch.Tensor, lags: int) -> torch.Tensor:
    """Norms `[rows, layers, lags]` of the gradient of the last token's loss at the states of 1 ... `lags` steps ago.

    Args:
        rows: ids `[rows, n]`, n >= lags + 2; what stands before the lags only makes the state.
    """
    first = rows.shape[1] - 1 - lags  # the token that is read with the state of the largest lag
    cache = model(rows[:, :first], use_cache=True).past_key_values.detach_()
    for layer in cache.layers:
        layer.map(torch.Tensor.requires_grad_)
    states, logits = [], torch.zeros(0)
    for step in range(first, rows.shape[1] - 1):
        states.append([layer.state for layer in cache.layers])
        logits = model(rows[:, step : step + 1], past_key_values=cache, use_cache=True).logits[:, -1]
        for layer in cache.layers:  # a copy has no part in this step's output, only in what comes later
            layer.map(torch.clone)
    loss = F.cross_entropy(logits, rows[:, -1], reduction="sum")  # each row's gradient is its own
    gradients = iter(torch.autograd.grad(loss, [tensor for step in states for state in step for tensor in state]))
    norms = [[torch.cat([next(gradients) for _ in state], 1).norm(dim=1) for state in step] for step in states]
    return torch.stack([torch.stack(step, 1) for step in reversed(norms)], 2)


def spectral_radii(model: RecurrentForCausalLM) -> list[dict[str, float]]:
    """Of every layer, the largest absolute eigenvalue of each gate's block of W, by the gate's name."""
    radii = []
    for layer in model.model.layers:
        cell: Any = layer.cell
        assert isinstance(cell, RecurrentCell)
        blocks = cell.weight_hh.detach().double().cpu().split(cell.hidden_size)
        names = GATES[model.config.cell_type]
        radii.append({name: float(torch.linalg.eigvals(block).abs().max()) for name, block in zip(names, blocks)})
    return radii


def describe(model: RecurrentForCausalLM, rows: torch.Tensor, lags: int) -> dict[str, Any]:
    """Geometric mean over rows of the norms, relative to the top layer's at lag 1, by layer and lag; and the radii."""
    norms = gradient_norms(model, rows, lags).double().clamp(min=TINY).log().mean(0).exp()
    return {"reach": (norms / norms[-1, 0]).tolist(), "spectral_radius": spectral_radii(model)}


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by prepare_data.py")
    parser.add_argument(
        "--model", default="recurrent-lstm-small", help="folder or embedded checkpoint of a recurrent model"
    )
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="songs that are read (default test)"
    )
    parser.add_argument("--lags", type=int, default=512, help="steps back (default 512)")
    parser.add_argument("--rows", type=int, default=32, help="places of songs (default 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of places (default 0)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON report; .md and .png go beside it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = make_parser().parse_args(argv)
    try:
        run(options, sys.argv[1:] if argv is None else list(argv))
    except (ValueError, OSError) as error:
        print(f"gradient_by_lag.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Measure the model and one of new weights, and report."""
    if min(options.lags, options.rows) < 1:
        raise ValueError("--lags, --rows: give positive numbers")
    folder = options.model if Path(options.model).is_dir() else embedded_checkpoint(options.model)
    trained = RecurrentForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(options.seed)
    models = {"trained": trained, "new weights": RecurrentForCausalLM(trained.config)}
    songs = [song.ids for song in read_songs(options.corpus, options.split)]
    rows = draw_rows(songs, options.rows, options.lags + 2, options.seed)
    report: dict[str, Any] = {
        "command": f"python training/gradient_by_lag.py {shlex.join(command)}",
        "model": str(options.model),
        "cell": trained.config.cell_type,
        "lags": options.lags,
        "rows": options.rows,
        "models": {name: describe(model.eval(), rows, options.lags) for name, model in models.items()},
    }
    text = to_markdown(report, options.output.with_suffix(".png").name)
    plot(report, options.output.with_suffix(".png"))
    write_report(options.output, report, text)
    print(text)


def to_markdown(report: dict[str, Any], image: str) -> str:
    """The report for people."""
    shown = [lag for lag in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if lag <= report["lags"]]
    curves = {
        f"{name}, layer {number}": (reach, radii)
        for name, model in report["models"].items()
        for number, (reach, radii) in enumerate(zip(model["reach"], model["spectral_radius"]), start=1)
    }
    rows = [[name, *(f"{reach[lag - 1]:.1e}" for lag in shown)] for name, (reach, _) in curves.items()]
    gates = list(next(iter(curves.values()))[1])
    radii = [[name, *(values[gate] for gate in gates)] for name, (_, values) in curves.items()]
    return (
        f"# Gradient by lag: {report['model']} ({report['cell']})\n\n`{report['command']}`\n\n"
        f"{report['rows']} places of held-out songs. Relative to the top layer at lag 1.\n\n"
        f"{markdown_table(['steps back', *map(str, shown)], rows)}\n"
        f"{markdown_table(['spectral radius of W', *gates], radii)}\n![gradient by lag]({image})\n"
    )


def plot(report: dict[str, Any], image: Path) -> None:
    """Gradient over lag on two logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for style, (name, model) in zip(("-", "--"), report["models"].items()):
        for number, reach in enumerate(model["reach"]):
            axis.loglog(
                np.arange(len(reach)) + 1, reach, style, color=f"C{number}", label=f"{name}, layer {number + 1}"
            )
    axis.set(xlabel="steps back", ylabel="gradient norm over that at lag 1", title=report["model"])
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    sys.exit(main())

"""How far back does a recurrent cell remember? A symbol, many distractors, a question.

    python training/lag_recall.py --cells rnn_tanh gru lstm --lags 8 32 128 --seeds 0 1 2 -o runs/lag_recall.json

Each row holds one of 8 payload symbols, `lag` random distractors and a query; the model must answer the payload. Rows
are drawn anew at every update, so accuracy is that on unseen rows. A run ends when the running accuracy (weight 0.95)
reaches 0.99, or at --updates. One layer of 64 units, embedding 32, batches of 64, Adam at 3e-3, gradient norm clipped
at 1. The LSTM's forget gate starts with --forget-bias: at 1 it halves the memory every few steps, at 3 it keeps it.

For the untrained and the trained model the report also has ||dL/dh_{t-k}|| / ||dL/dh_t||, the gradient that reaches the
payload relative to the one at the answer: where it is nothing, no clipping helps.
"""

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from partimento.modeling import RecurrentConfig, RecurrentForCausalLM
from partimento.training.checkpointing import write_atomically
from partimento.training.reports import markdown_table, write_report

NUM_PAYLOADS, NUM_DISTRACTORS = 8, 8
QUERY = NUM_PAYLOADS + NUM_DISTRACTORS
BATCH, LEARNING_RATE, MAX_NORM, SMOOTHING, GOAL = 64, 3e-3, 1.0, 0.95, 0.99


def draw_rows(lag: int, rows: int, generator: torch.Generator) -> torch.Tensor:
    """Ids `[rows, lag + 2]`: payload, distractors, query; the answer is the first column."""
    payload = torch.randint(NUM_PAYLOADS, (rows, 1), generator=generator)
    distractors = torch.randint(NUM_PAYLOADS, QUERY, (rows, lag), generator=generator)
    return torch.cat([payload, distractors, torch.full((rows, 1), QUERY)], 1)


def make_model(cell: str, forget_bias: float, seed: int) -> RecurrentForCausalLM:
    """A new model of the diagnostic's size."""
    torch.manual_seed(seed)
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "bar_token_id"))
    return RecurrentForCausalLM(
        RecurrentConfig(
            cell_type=cell,
            vocab_size=QUERY + 1,
            hidden_size=64,
            embedding_size=32,
            num_hidden_layers=1,
            forget_gate_bias=forget_bias,
            **ids,  # type: ignore[arg-type]
        )
    )


def recall(cell: str, lag: int, seed: int, *, updates: int = 1500, forget_bias: float = 1.0) -> dict[str, Any]:
    """Train one model on one lag.

    Returns:
        updates made, running accuracy at the end, whether it reached 0.99, and the relative gradient before and after.

    Raises:
        ValueError: a negative lag.
    """
    if lag < 0:
        raise ValueError(f"lag={lag}: give 0 or more distractors")
    model, generator = make_model(cell, forget_bias, seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    before = gradient_reach(model, draw_rows(lag, BATCH, generator))
    accuracy, update = 1 / NUM_PAYLOADS, 0
    while update < updates and accuracy < GOAL:
        rows = draw_rows(lag, BATCH, generator)
        logits = model(rows, logits_to_keep=1, use_cache=False).logits[:, 0]
        loss = F.cross_entropy(logits, rows[:, 0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        right = (logits.argmax(-1) == rows[:, 0]).float().mean().item()
        accuracy = SMOOTHING * accuracy + (1 - SMOOTHING) * right
        update += 1
    after = gradient_reach(model, draw_rows(lag, BATCH, generator))
    return {
        "cell": cell,
        "lag": lag,
        "seed": seed,
        "forget_bias": forget_bias if cell.startswith("lstm") else None,
        "updates": update,
        "accuracy": accuracy,
        "learned": accuracy >= GOAL,
        "gradient_reach_before": before,
        "gradient_reach_after": after,
    }


def gradient_reach(model: RecurrentForCausalLM, rows: torch.Tensor) -> float:
    """||dL/dh_0|| / ||dL/dh_t|| of the answer's loss, h_0 behind the payload and h_t behind the query.

    The state of an LSTM is h and the memory together.
    """
    norms = []
    for split in (1, rows.shape[1]):  # the state behind the payload, and behind the query
        cache = model(rows[:, :split], use_cache=True).past_key_values.detach_()
        state = tuple(tensor.requires_grad_() for tensor in cache.layers[0].state)
        cache.layers[0].state = state
        if split < rows.shape[1]:
            logits = model(rows[:, split:], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, 0]
        else:
            logits = model.lm_head(state[0])
        loss = F.cross_entropy(logits, rows[:, 0])
        gradients = torch.autograd.grad(loss, state, allow_unused=True)
        norms.append(sum(g.square().sum().item() for g in gradients if g is not None) ** 0.5)
    return norms[0] / norms[1] if norms[1] else 0.0


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["rnn_tanh", "gru", "lstm"], help="cell types of RecurrentConfig")
    parser.add_argument("--lags", nargs="+", type=int, default=[8, 32, 128], help="numbers of distractors")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=3000, help="at most so many for each run")
    parser.add_argument("--forget-bias", nargs="+", type=float, default=[1.0, 3.0], help="of LSTM cells")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON report; Markdown goes beside it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = make_parser().parse_args(argv)
    parts = options.output.with_name(options.output.name + ".parts")  # finished runs, for the next start
    parts.parent.mkdir(parents=True, exist_ok=True)
    done = json.loads(parts.read_text()) if parts.is_file() else {}
    jobs = [
        (cell, lag, seed, bias)
        for cell, lag, seed in itertools.product(options.cells, options.lags, options.seeds)
        for bias in (options.forget_bias if cell.startswith("lstm") else [1.0])
    ]
    results = []
    try:
        for cell, lag, seed, bias in tqdm(jobs, unit="run"):
            key = f"{cell} {lag} {seed} {bias} {options.updates}"
            if key not in done:
                done[key] = recall(cell, lag, seed, updates=options.updates, forget_bias=bias)
                write_atomically(parts, json.dumps(done))
            results.append(done[key])
    except ValueError as error:
        print(f"lag_recall.py: {error}", file=sys.stderr)
        return 2
    command = f"python training/lag_recall.py {shlex.join(sys.argv[1:] if argv is None else argv)}"
    text = markdown(results, command)
    write_report(options.output, {"command": command, "runs": results}, text)
    parts.unlink(missing_ok=True)
    print(text)
    return 0


def markdown(results: Sequence[dict[str, Any]], command: str) -> str:
    """One line per cell and lag, the seeds side by side."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in results:
        bias = run["forget_bias"]
        name = run["cell"] if bias is None else f"{run['cell']}, forget bias {bias:g}"
        groups.setdefault((name, run["lag"]), []).append(run)
    rows = [
        [
            name,
            lag,
            ", ".join(str(run["updates"]) if run["learned"] else "never" for run in runs),
            ", ".join(f"{run['accuracy']:.2f}" for run in runs),
            ", ".join(f"{run['gradient_reach_before']:.1e}" for run in runs),
            ", ".join(f"{run['gradient_reach_after']:.1e}" for run in runs),
        ]
        for (name, lag), runs in groups.items()
    ]
    header = ["cell", "lag", "updates to 0.99", "accuracy", "gradient reach, untrained", "trained"]
    return f"# Recall over a lag\n\n`{command}`\n\nOne figure per seed.\n\n{markdown_table(header, rows)}"


if __name__ == "__main__":
    sys.exit(main())

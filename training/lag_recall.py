"""How far back does a recurrent cell remember? A symbol, many distractors, a question.

    python training/lag_recall.py --cells rnn_tanh gru lstm --lags 8 32 128 --seeds 0 1 2 -o runs/lag_recall.json

Each row holds one of 8 payload symbols, `lag` random distractors and a query; the model must answer the payload. Rows
are drawn anew at every update, so accuracy is that on unseen rows. A run ends when the running accuracy (weight 0.95)
reaches 0.99, or at --updates. One layer of 64 units, embedding 32, batches of 64, Adam at 3e-3, gradient norm clipped
at 1. The LSTM's forget gate starts with --forget-bias: at 1 it halves the memory every few steps, at 3 it keeps it.

With --bars every symbol stands in a bar of its own, lags count bars, and attention may take part: `museformer` (its
fine attention sees bars 1, 2, 4, 8, 12, 16, 24 and 32 back, the others through their summaries) and `full_attention`,
both with two layers of 64.

    python training/lag_recall.py --bars --cells lstm museformer full_attention --lags 8 32 128 -o runs/lag_bars.json

For the untrained and the trained recurrent model the report also has ||dL/dh_{t-k}|| / ||dL/dh_t||, the gradient that
reaches the payload relative to the one at the answer: where it is nothing, no clipping helps.
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
from transformers import PreTrainedModel

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM, RecurrentConfig, RecurrentForCausalLM
from partimento.modeling.museformer.configuration_museformer import FINE_OFFSETS
from partimento.training.checkpointing import write_atomically
from partimento.training.experiment_recipes import parse_with_recipe
from partimento.training.reports import markdown_table, write_report

NUM_PAYLOADS, NUM_DISTRACTORS = 8, 8
QUERY = NUM_PAYLOADS + NUM_DISTRACTORS
BAR, POSITION, PAD, BOS, EOS = range(QUERY + 1, QUERY + 6)  # with bars; of these only BAR is written
ATTENTION = ("museformer", "full_attention")
BATCH, LEARNING_RATE, MAX_NORM, SMOOTHING, GOAL = 64, 3e-3, 1.0, 0.95, 0.99


def draw_rows(lag: int, rows: int, generator: torch.Generator, bars: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `[rows, lag + 2]` of payload, distractors, query, with a Bar before each if `bars`; and payloads `[rows]`."""
    payload = torch.randint(NUM_PAYLOADS, (rows, 1), generator=generator)
    distractors = torch.randint(NUM_PAYLOADS, QUERY, (rows, lag), generator=generator)
    ids = torch.cat([payload, distractors, torch.full((rows, 1), QUERY)], 1)
    if bars:
        ids = torch.stack([torch.full_like(ids, BAR), ids], 2).flatten(1)
    return ids, payload[:, 0]


def make_model(cell: str, forget_bias: float, seed: int, bars: bool = False) -> PreTrainedModel:
    """A new model of the diagnostic's size.

    Raises:
        ValueError: attention without bars.
    """
    torch.manual_seed(seed)
    if cell in ATTENTION:
        if not bars:
            raise ValueError(f"--cells {cell}: Museformer's attention is over bars; add --bars")
        return MuseformerForCausalLM(
            MuseformerConfig(
                vocab_size=EOS + 1,
                hidden_size=64,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                bar_embedding_size=32,
                beat_embedding_size=16,
                fine_offsets=FINE_OFFSETS if cell == "museformer" else None,
                bar_token_id=BAR,
                position_token_start=POSITION,
                num_positions=1,
                pad_token_id=PAD,
                bos_token_id=BOS,
                eos_token_id=EOS,
                dropout=0.0,
                attention_dropout=0.0,
            )
        )
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "bar_token_id"))
    return RecurrentForCausalLM(
        RecurrentConfig(
            cell_type=cell,
            vocab_size=EOS + 1 if bars else QUERY + 1,
            hidden_size=64,
            embedding_size=32,
            num_hidden_layers=1,
            forget_gate_bias=forget_bias,
            **ids,  # type: ignore[arg-type]
        )
    )


def recall(
    cell: str, lag: int, seed: int, *, updates: int = 1500, forget_bias: float = 1.0, bars: bool = False
) -> dict[str, Any]:
    """Train one model on one lag.

    Returns:
        updates made, running accuracy at the end, whether it reached 0.99, and the relative gradient before and after,
        None for attention.

    Raises:
        ValueError: a negative lag.
    """
    if lag < 0:
        raise ValueError(f"lag={lag}: give 0 or more distractors")
    model, generator = make_model(cell, forget_bias, seed, bars), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    before = gradient_reach(model, *draw_rows(lag, BATCH, generator, bars))
    accuracy, update = 1 / NUM_PAYLOADS, 0
    while update < updates and accuracy < GOAL:
        rows, payload = draw_rows(lag, BATCH, generator, bars)
        logits = model(rows, logits_to_keep=1, use_cache=False).logits[:, 0]
        loss = F.cross_entropy(logits, payload)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        right = (logits.argmax(-1) == payload).float().mean().item()
        accuracy = SMOOTHING * accuracy + (1 - SMOOTHING) * right
        update += 1
    after = gradient_reach(model, *draw_rows(lag, BATCH, generator, bars))
    return {
        "cell": cell,
        "lag": lag,
        "seed": seed,
        "bars": bars,
        "forget_bias": forget_bias if cell.startswith("lstm") else None,
        "updates": update,
        "accuracy": accuracy,
        "learned": accuracy >= GOAL,
        "gradient_reach_before": before,
        "gradient_reach_after": after,
    }


def gradient_reach(model: PreTrainedModel, rows: torch.Tensor, payload: torch.Tensor) -> float | None:
    """||dL/dh_0|| / ||dL/dh_t|| of the answer's loss, h_0 behind the payload and h_t behind the query.

    The state of an LSTM is h and the memory together. None for a model without a state.
    """
    if not isinstance(model, RecurrentForCausalLM):
        return None
    norms = []
    for split in (1 + int((rows[0] == payload[0]).nonzero()[0]), rows.shape[1]):  # behind the payload, behind the query
        cache = model(rows[:, :split], use_cache=True).past_key_values.detach_()
        state = tuple(tensor.requires_grad_() for tensor in cache.layers[0].state)
        cache.layers[0].state = state
        if split < rows.shape[1]:
            logits = model(rows[:, split:], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, 0]
        else:
            logits = model.lm_head(state[0])
        loss = F.cross_entropy(logits, payload)
        gradients = torch.autograd.grad(loss, state, allow_unused=True)
        norms.append(sum(g.square().sum().item() for g in gradients if g is not None) ** 0.5)
    return norms[0] / norms[1] if norms[1] else 0.0


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cells",
        nargs="+",
        default=["rnn_tanh", "gru", "lstm"],
        help="cell types of RecurrentConfig; with --bars also museformer, full_attention",
    )
    parser.add_argument("--bars", action="store_true", help="a bar for every symbol")
    parser.add_argument("--lags", nargs="+", type=int, default=[8, 32, 128], help="numbers of distractors")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run of each cell and lag per seed (default 0 1 2)"
    )
    parser.add_argument("--updates", type=int, default=3000, help="at most so many for each run")
    parser.add_argument("--forget-bias", nargs="+", type=float, default=[1.0, 3.0], help="of LSTM cells")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON report; Markdown goes beside it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_with_recipe(make_parser(), argv, "lag_recall")
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
            key = f"{cell} {lag} {seed} {bias} {options.updates}{' bars' * options.bars}"
            if key not in done:
                done[key] = recall(cell, lag, seed, updates=options.updates, forget_bias=bias, bars=options.bars)
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
            *(
                ", ".join("–" if run[key] is None else f"{run[key]:.1e}" for run in runs)
                for key in ("gradient_reach_before", "gradient_reach_after")
            ),
        ]
        for (name, lag), runs in groups.items()
    ]
    header = ["cell", "lag", "updates to 0.99", "accuracy", "gradient reach, untrained", "trained"]
    unit = "bars, one symbol each" if results and results[0]["bars"] else "symbols"
    return (
        f"# Recall over a lag\n\n`{command}`\n\nOne figure per seed; lags in {unit}.\n\n{markdown_table(header, rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())

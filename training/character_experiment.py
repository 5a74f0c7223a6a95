"""Text, one character at a time: vanilla RNN, GRU and LSTM with and without gradient clipping.

    python training/character_experiment.py --text build/data/sample/text/tinyshakespeare_200k.txt \\
        --steps 3000 -o runs/characters

repeats the comparison of J. Roman Morales, "Redes recurrentes para el analisis de series temporales" (UAM, 2018), on
any UTF-8 text: one layer of 100 units, one-hot symbols, windows of 50 symbols of a single lane with the state carried
on and set to zero when the text begins anew, Adam at 0.01, for every cell, with and without clipping the gradient's
norm, and for several seeds. His runs had 500,000 steps on 2,073,255 characters of Don Quijote; `--steps` says how far
yours go, and the report gives both. His cells are `rnn_tanh`, `gru_thesis` and `lstm`.

Two things are added: the last 5 % of the text are held out, and the loss on them is reported in bits per symbol.

Writes report.json, report.md, curves.png (smoothed cost and gradient norms) and a sample of every run. Each run is
saved as it ends, and every few thousand steps before: after an interruption the same command goes on.
On a CPU use OMP_NUM_THREADS=1: the matrices are small.
"""

import argparse
import itertools
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from partimento.modeling import RecurrentConfig, RecurrentForCausalLM
from partimento.training.character_report import RunRecord, draw_curves, make_report, markdown
from partimento.training.character_text import PHRASES, TextData, read_text, share_of_known_words
from partimento.training.checkpointing import write_atomically
from partimento.training.experiment_recipes import parse_with_recipe
from partimento.training.reports import write_report

CELLS = ("rnn_tanh", "rnn_relu", "gru", "gru_thesis", "lstm", "lstm_peephole")
LN2 = math.log(2)
SMOOTHING = 0.999  # of the cost, per step
NUM_POINTS = 200  # of a curve


@dataclass(frozen=True)
class CharacterSettings:
    """What a run depends on, beside cell, clipping and seed."""

    steps: int = 3000
    hidden_size: int = 100
    window: int = 50
    learning_rate: float = 0.01
    initializer_range: float = 1.0  # of the output matrix, as in the thesis' code
    sample_symbols: int = 1000


class CharacterRun:
    """One cell, one clipping threshold, one seed; goes on from `<folder>/<name>.pt` where there is one."""

    def __init__(self, record: RunRecord, settings: CharacterSettings, data: TextData, folder: Path):
        self.record, self.settings, self.data = record, settings, data
        self.path = folder / f"{record.name}.pt"
        torch.manual_seed(record.seed)
        self.model = RecurrentForCausalLM(
            RecurrentConfig(
                vocab_size=len(data.tokenizer),
                cell_type=record.cell,
                hidden_size=settings.hidden_size,
                num_hidden_layers=1,
                input_mode="one_hot",
                initializer_range=settings.initializer_range,
                pad_token_id=None,
                bos_token_id=None,
                eos_token_id=None,
                bar_token_id=None,
            )
        )
        record.parameters = self.model.num_free_parameters()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self.ids = torch.from_numpy(data.train)[None]
        self.cache: Any = None
        if self.path.is_file():
            self._load()

    def run(self, save_every: int, progress: tqdm) -> RunRecord:
        """Train to the last step, then score the held-out span and draw a sample."""
        record, last = self.record, self.settings.steps
        progress.update(record.step)
        while record.step < last and record.diverged_at is None:
            started = time.perf_counter()
            until = min(last, (record.step // save_every + 1) * save_every)
            while record.step < until and record.diverged_at is None:
                self.step()
                progress.update()
            record.seconds += time.perf_counter() - started
            if record.step < last:
                self._save()
        if record.diverged_at is None:
            record.held_out_bits = self.held_out_loss() / LN2
            record.sample = self.draw_sample()
            record.known_words = share_of_known_words(record.sample, self.data.words)
        record.done = True
        return record

    def step(self) -> None:
        """One window, one update."""
        record, window = self.record, self.settings.window
        if record.position + window + 1 > self.ids.shape[1]:
            record.position, self.cache = 0, None  # the text begins anew
        part = self.ids[:, record.position : record.position + window + 1]
        output = self.model(part[:, :-1], shift_labels=part[:, 1:], past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values.detach_()
        self.optimizer.zero_grad()
        output.loss.backward()
        limit = math.inf if record.clip is None else record.clip
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        cost = output.loss.item()
        record.step += 1
        record.position += window
        if not (math.isfinite(cost) and math.isfinite(norm)):
            record.diverged_at = record.step
            return
        self.optimizer.step()
        record.smoothed = cost if record.smoothed is None else SMOOTHING * record.smoothed + (1 - SMOOTHING) * cost
        record.norm_recent = max(record.norm_recent, norm)
        record.norm_max = max(record.norm_max, norm)
        if record.step % max(1, self.settings.steps // NUM_POINTS) == 0:
            record.curve.append({"step": record.step, "cost": record.smoothed, "norm": record.norm_recent})
            record.norm_recent = 0.0

    @torch.inference_mode()
    def held_out_loss(self) -> float:
        """Nats per symbol of the held-out span, read from its beginning with the state zero."""
        ids = torch.from_numpy(self.data.held_out)[None]
        cache, total = None, 0.0
        for start in range(0, ids.shape[1] - 1, 2_000):
            part = ids[:, start : start + 2_001]
            output = self.model(part[:, :-1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            total += float(F.cross_entropy(output.logits[0], part[0, 1:], reduction="sum"))
        return total / (ids.shape[1] - 1)

    @torch.inference_mode()
    def draw_sample(self) -> str:
        """Symbols drawn from the softmax at temperature 1, behind the first symbol of the held-out span."""
        generator = torch.Generator().manual_seed(self.record.seed)
        ids, cache = torch.from_numpy(self.data.held_out)[None, :1], None
        drawn = [int(ids)]
        for _ in range(self.settings.sample_symbols):
            output = self.model(ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            ids = torch.multinomial(output.logits[:, -1].softmax(-1), 1, generator=generator)
            drawn.append(int(ids))
        return self.data.tokenizer.decode(drawn)

    def _save(self) -> None:
        states = [] if self.cache is None else [list(state) for state in self.cache.states]
        content = {
            "record": asdict(self.record),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "states": states,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(content, temporary)
        temporary.replace(self.path)

    def _load(self) -> None:
        content = torch.load(self.path, weights_only=True)
        self.record = RunRecord(**content["record"])
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["states"]:
            self.cache = self.model(self.ids[:, :1], use_cache=True).past_key_values
            for layer, state in zip(self.cache.layers, content["states"]):
                layer.reset()
                layer.update(tuple(state), 0)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text file")
    parser.add_argument("--unit", choices=("char", "byte"), default="char", help="what a symbol is")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), help="cell types (default: all six)")
    parser.add_argument(
        "--clip", nargs="+", default=["none", "5"], metavar="NORM", help="gradient norms to clip at, or none"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run of each model per seed (default 0 1 2)"
    )
    parser.add_argument("--steps", type=int, default=3000, help="updates of a run; 500,000 were published")
    parser.add_argument("--hidden-size", type=int, default=100, help="units of a cell (default 100)")
    parser.add_argument("--window", type=int, default=50, help="symbols per update")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="of Adam (default 0.01)")
    parser.add_argument("--sample-symbols", type=int, default=1000, help="of a sample; 5,000 were published")
    parser.add_argument(
        "--phrases",
        nargs="*",
        default=list(PHRASES),
        help=f"counted in text and samples (default: {', '.join(PHRASES)})",
    )
    parser.add_argument("--save-every", type=int, default=2000, metavar="STEPS", help="how often a run is saved")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of runs and report")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_with_recipe(make_parser(), argv, "character_experiment")
    try:
        experiment(options, sys.argv[1:] if argv is None else list(argv))
    except (ValueError, OSError) as error:
        print(f"character_experiment.py: {error}", file=sys.stderr)
        return 2
    return 0


def experiment(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Make all runs that are not there yet, then write the report."""
    settings = CharacterSettings(
        steps=options.steps,
        hidden_size=options.hidden_size,
        window=options.window,
        learning_rate=options.learning_rate,
        sample_symbols=options.sample_symbols,
    )
    if min(settings.steps, settings.window, options.save_every) < 1:
        raise ValueError(f"--steps {settings.steps}, --window {settings.window}: give positive numbers")
    clips = [parse_clip(text) for text in options.clip]
    data = read_text(options.text, options.unit)
    if len(data.train) <= settings.window:
        raise ValueError(f"{options.text}: {len(data.train)} symbols are fewer than a window of {settings.window}")
    folder = options.output / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    check_same(options.output / "settings.json", {**asdict(settings), "text": data.facts})
    data.tokenizer.save(options.output / "alphabet.json")
    records = []
    runs = list(itertools.product(options.cells, clips, options.seeds))
    with tqdm(total=len(runs) * settings.steps, unit="step", mininterval=2) as progress:
        for cell, clip, seed in runs:
            record = RunRecord(cell, clip, seed)
            path = folder / f"{record.name}.json"
            progress.set_description(record.name)
            if path.is_file():
                record = RunRecord(**json.loads(path.read_text(encoding="utf-8")))
                progress.update(settings.steps)
            else:
                run = CharacterRun(record, settings, data, folder)
                record = run.run(options.save_every, progress)
                write_atomically(path, json.dumps(asdict(record), ensure_ascii=False))
                run.path.unlink(missing_ok=True)
            records.append(record)
    report = make_report(records, asdict(settings), data.facts, data.train_text, options.phrases)
    report["command"] = f"python training/character_experiment.py {shlex.join(command)}"
    draw_curves(records, options.output / "curves.png")
    text = markdown(report)
    write_report(options.output / "report.json", report, text)
    print(text)


def parse_clip(text: str) -> float | None:
    """`none`, or a positive norm. Raises ValueError otherwise."""
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise ValueError(f"--clip {text}: give a positive norm, or none")
    return value


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new folder; refuse runs of other settings beside those of an old one."""
    if not path.is_file():
        write_atomically(path, json.dumps(settings, indent=1, ensure_ascii=False))
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if different := sorted(key for key in settings if before.get(key) != settings[key]):
        raise ValueError(f"{path.parent}: its runs differ in {', '.join(different)}; give another --output")


if __name__ == "__main__":
    sys.exit(main())

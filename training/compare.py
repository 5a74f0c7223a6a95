"""Families of models on the same music: one command that trains them with one budget and compares them.

    OMP_NUM_THREADS=1 python training/compare.py --corpus build/corpus --tokens 3_000_000 -o runs/comparison

trains RNN, GRU, LSTM, a Transformer with full attention and Museformer, each with 4.2 to 4.3 million parameters and
the same number of training tokens (10 to 25 CPU minutes a model at three million), counts n-grams in as many tokens,
and compares all on the same held-out songs. Whether all steps work, in some minutes:

    OMP_NUM_THREADS=1 python training/compare.py --corpus build/corpus --quick -o build/comparison-smoke

What is compared is said by --models, in the order of the tables:

    rnn gru lstm full-attention museformer    training/recipes/comparison-*.yaml
    5-gram, 5-gram-all                        n-gram model of --tokens training tokens; of the whole training split
    path/to/recipe.yaml                       any other recipe of a causal language model
    NAME=FOLDER                               a model that is there, such as old=runs/recurrent-lstm-small-open/best

Each model is trained, scored (evaluate_lm.py), sampled (evaluate_samples.py) and timed (benchmark_lm.py) by programs
of their own, which go on where they stopped; what is finished is never done again. Give the same command after an
interruption. Two commands may share one --output, each with its own --models, to use two cores; a last one with all
models then only writes the report. Only --models, --seeds and --held-out may differ between the commands of a folder,
and samples may be added to one that has none.

Full attention is the Museformer decoder with every past token in sight and no summaries: parameters, embeddings and
positions are the same, so that the difference is what is attended.

Writes OUTPUT/comparison.json, .md and .png.
"""

import argparse
import hashlib
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from partimento.tokenization import MidiProcessor
from partimento.training.arguments import load_arguments
from partimento.training.checkpointing import write_atomically
from partimento.training.comparison_plot import plot_comparison
from partimento.training.comparison_report import comparison_markdown, read_models
from partimento.training.comparison_runs import Step, keep_identity, report_step, run_step, training_step
from partimento.training.form_comparison import Pieces, compare_with_training
from partimento.training.metrics.notes import Notes
from partimento.training.reports import library_versions, write_report
from partimento.training.songs import read_songs, split_files

RECIPES = Path(__file__).parent / "recipes"
REFERENCE = "museformer"
MODELS = ("5-gram-all", "5-gram", "rnn", "gru", "lstm", "full-attention", REFERENCE)
QUICK = {"tokens": 12_000, "max_songs": 4, "max_tokens": 1_024, "samples": 2, "bars": 4, "held_out": 4}
QUICK_OVERRIDES = (
    "train.warmup_updates=1", "train.cooldown_updates=1", "train.eval_every=2", "train.log_every=1",
    "data.validation_songs=4", "data.validation_length=512",
)  # fmt: skip


@dataclass(frozen=True)
class Contestant:
    """One model of the comparison: a recipe to train, an n-gram order, or a folder that holds it."""

    name: str
    recipe: Path | None = None
    order: int = 0
    whole_split: bool = False
    source: Path | None = None

    def folder(self, output: Path, seed: int) -> Path:
        """Where its reports go; what is not trained here has no seeds."""
        return output / (f"{self.name}-seed{seed}" if self.recipe else self.name)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by prepare_data.py")
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), metavar="MODEL", help="default: all seven, see above"
    )
    parser.add_argument("--tokens", type=int, help="training tokens of each model (default 3,000,000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training (default: 0)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="GROUP.KEY=VALUE", dest="overrides",
        help="changes to every recipe, as in train.py",
    )  # fmt: skip
    parser.add_argument("--split", default="test", choices=("validation", "test"), help="songs of the comparison")
    parser.add_argument("--max-songs", type=int, help="at most this many songs, a seeded draw (default 64; 0: all)")
    parser.add_argument("--max-tokens", type=int, help="at most this many tokens of a song (default 10,240)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="of the likelihood")
    parser.add_argument("--samples", type=int, help="samples of each model (default 20; 0: none)")
    parser.add_argument("--bars", type=int, help="bars of a sample (default 16)")
    parser.add_argument("--held-out", type=int, help="held-out songs beside the samples (default 100)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: tiny budgets, figures without meaning")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of all runs and of the report")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    args = fill_defaults(make_parser().parse_args(arguments))
    try:
        run(args, sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError) as error:
        print(f"compare.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def fill_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """Values that were not given, from the smoke run or from the full one."""
    full = {
        "tokens": 3_000_000, "max_songs": 64, "max_tokens": 10_240, "samples": 20, "bars": 16, "held_out": 100
    }  # fmt: skip
    for name, value in (QUICK if args.quick else full).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.quick:
        args.overrides = [*QUICK_OVERRIDES, *args.overrides]
    return args


def run(args: argparse.Namespace, command: list[str]) -> None:
    """Do all steps that are not done, then write and print the comparison."""
    split_files(args.corpus, "train")
    contestants = [parse_contestant(text) for text in args.models]
    names = [contestant.name for contestant in contestants]
    if len(set(names)) < len(names):
        raise ValueError(f"--models {' '.join(args.models)}: two of them have one name")
    recipes = {c.name: c.recipe for c in contestants if c.recipe}
    for recipe in recipes.values():
        load_arguments(recipe, args.overrides)
    if args.tokens < 1 or args.samples < 0 or args.bars < 1:
        raise ValueError(f"--tokens {args.tokens}, --samples {args.samples}, --bars {args.bars}: give positive numbers")
    identity = {
        "corpus": str(args.corpus),
        "recipes": {name: yaml.safe_load(recipe.read_text(encoding="utf-8")) for name, recipe in recipes.items()},
        "overrides": args.overrides,
        "tokens": args.tokens,
        "likelihood": [args.split, args.max_songs, args.max_tokens, args.dtype],
        "bars": args.bars,
    }
    if args.samples:
        identity["samples"] = args.samples
    keep_identity(args.output, identity)
    plan = [(c, seed) for seed in args.seeds for c in contestants if c.recipe or seed == args.seeds[0]]
    folders: dict[str, dict[int, Path]] = {name: {} for name in names}
    for number, (contestant, seed) in enumerate(plan, start=1):
        folder = folders[contestant.name][seed] = contestant.folder(args.output, seed)
        for step in steps(args, contestant, folder, seed):
            if not step.done.exists():
                print(f"[{number} of {len(plan)}] {contestant.name}, seed {seed}: {step.title}", file=sys.stderr)
                run_step(step)
    report: dict[str, Any] = {
        "command": "python training/compare.py " + shlex.join(command),
        "corpus": str(args.corpus),
        "split": args.split,
        "max_tokens": args.max_tokens,
        "tokens": args.tokens,
        "seeds": args.seeds,
        "overrides": args.overrides,
        "samples": {"count": args.samples, "bars": args.bars},
        "reference": REFERENCE if REFERENCE in names else names[0],
        "libraries": library_versions(),
    }
    report |= read_models(folders, args.split, report["reference"])
    report["form"] = compare_samples(args, folders) if args.samples else None
    image = args.output / "comparison.png"
    text = comparison_markdown(report, image.name)
    json_path, markdown_path = write_report(args.output / "comparison.json", report, text)
    plot_comparison(report, image)
    print(text)
    print(f"written: {json_path}, {markdown_path} and {image}")


def parse_contestant(text: str) -> Contestant:
    """A word of --models. Raises ValueError when it is none."""
    if match := re.fullmatch(r"([1-9])-gram(-all)?", text):
        return Contestant(text, order=int(match[1]), whole_split=bool(match[2]))
    if (RECIPES / f"comparison-{text}.yaml").is_file():
        return Contestant(text, recipe=RECIPES / f"comparison-{text}.yaml")
    if text.endswith((".yaml", ".yml")):
        return Contestant(Path(text).stem.removeprefix("comparison-"), recipe=Path(text))
    name, separator, folder = text.partition("=")
    if separator and (Path(folder) / "config.json").is_file():
        return Contestant(name, source=Path(folder))
    known = sorted(path.stem.removeprefix("comparison-") for path in RECIPES.glob("comparison-*.yaml"))
    raise ValueError(
        f"--models {text}: give one of {', '.join(known)}, an n-gram such as 5-gram or 5-gram-all, a recipe.yaml, or "
        "NAME=FOLDER with a config.json in the folder"
    )


def steps(args: argparse.Namespace, contestant: Contestant, folder: Path, seed: int) -> list[Step]:
    """All programs of one model and seed."""
    corpus = ["--corpus", str(args.corpus)]
    likelihood = [*corpus, "--splits", args.split, "--conditions", "all", "--max-tokens", str(args.max_tokens)]
    likelihood += ["--max-songs", str(args.max_songs)] if args.max_songs else []
    result, speed = [], []
    if contestant.order:
        size = [] if contestant.whole_split else ["--ngram-tokens", str(args.tokens)]
        model = ["--model", f"{contestant.order}-gram", *size]
        likelihood += ["--ngram", str(contestant.order), *size]
    else:
        weights = contestant.source or folder / "final"
        model = ["--model", str(weights)]
        likelihood += [*model, "--ngram", "0", "--dtype", args.dtype]
        config = weights.parent / "config.yaml"
        if contestant.recipe:
            overrides = [*args.overrides, f"train.max_tokens={args.tokens}"]
            result.append(training_step(contestant.recipe, folder, args.corpus, seed, overrides))
        if contestant.recipe or config.is_file():
            speed = ["--config", str(config)]
    result.append(report_step("likelihood", "evaluate_lm.py", folder, likelihood))
    if args.samples:
        options = [*model, *corpus, "-n", str(args.samples), "--bars", str(args.bars), "--seed", "0"]
        options += ["--modes", "constrained", "--only-checks", "--top-k", "0", "--top-p", "0.95"]
        result.append(report_step("samples", "evaluate_samples.py", folder, options))
    result.append(report_step("speed", "benchmark_lm.py", folder, [*model, *corpus, *speed, "--bars", str(args.bars)]))
    return result


def compare_samples(args: argparse.Namespace, folders: dict[str, dict[int, Path]]) -> dict[str, Any]:
    """Figures of all samples against training and held-out songs; kept until a sample changes."""
    files = {name: [folder / "samples.jsonl" for folder in seeds.values()] for name, seeds in folders.items()}
    settings = [list(files), args.bars, args.held_out]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for file in (file for some in files.values() for file in some):
        digest.update(file.read_bytes())
    kept = args.output / "form.json"
    if kept.is_file():
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content["digest"] == digest.hexdigest():
            return content["form"]
    processor = MidiProcessor.from_pretrained(args.corpus / "processor")
    pieces = {
        name: [piece for file in some for piece in stored_pieces(file, processor)] for name, some in files.items()
    }
    training = read_songs(args.corpus, "train")
    form = compare_with_training(
        pieces, training, processor, args.corpus, bars=args.bars, num_held_out=args.held_out
    )  # fmt: skip
    write_atomically(kept, json.dumps({"digest": digest.hexdigest(), "form": form}))
    return form


def stored_pieces(file: Path, processor: MidiProcessor) -> Pieces:
    """The samples of a file that decode to notes."""
    pieces = []
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        _, body = processor.split_prefix(json.loads(line)["ids"])
        notes = Notes.from_ids(body, processor)
        if len(notes):
            pieces.append((processor.array(body), notes))
    return pieces


if __name__ == "__main__":
    sys.exit(main())

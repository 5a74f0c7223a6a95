"""Teach a trained model your own music: one command from a folder of MIDI files to a model that `partimento` plays.

    python training/fine_tune.py my-midi/ --model museformer-small -o runs/mine
    partimento generate --model runs/mine/model --bars 16 -o mine.mid

By default all weights learn; `--lora 16` trains adapters of rank 16 and merges them at the end. Ten usable songs are
the least: one in ten chooses the moment to stop, one in ten is the test. The folder may hold a metadata.csv
(file_name, genre, title, ...); genres that the model knows become conditions.

Steps: tokenise (OUTPUT/corpus), train (OUTPUT/run), measure, export (OUTPUT/model). What is finished is skipped:
after an interruption, give the same command again. The report, OUTPUT/fine_tune.md, compares the model before and
after on your songs and, with --base-corpus, on songs of the kind it was first trained on: what it has forgotten.
--scratch also trains new weights on your songs alone, with the same limits.

For several GPUs, or other settings, run training/train.py itself with training/recipes/fine-tune.yaml.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig

import partimento.modeling  # noqa: F401  (registers the architectures)
from partimento.pipelines.generation import resolve_model
from partimento.training.arguments import load_arguments
from partimento.training.checkpointing import write_atomically
from partimento.training.comparison_runs import Step, keep_identity, report_step, run_step, training_step
from partimento.training.reports import library_versions, markdown_table, write_report

FOLDER = Path(__file__).parent
RECIPE = FOLDER / "recipes" / "fine-tune.yaml"
CARD = FOLDER / "cards" / "fine-tuned.md"
SPLITS = ("train", "validation", "test")
LORA_LEARNING_RATE = 2e-3  # adapters start at zero and want a larger step than weights do


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("midi", type=Path, nargs="+", help="folders or archives of MIDI files")
    parser.add_argument(
        "--model", default="museformer-small", help="embedded checkpoint, folder or Hub id to start from"
    )
    parser.add_argument(
        "--lora", type=int, default=0, metavar="RANK", help="train adapters of this rank, not the weights"
    )
    parser.add_argument(
        "--scratch", action="store_true", help="also train new weights on these songs alone, to compare"
    )
    parser.add_argument(
        "--minutes", type=float, default=20, help="longest training (default 20; less if it stops gaining)"
    )
    parser.add_argument("--base-corpus", type=Path, help="a prepared corpus to measure what is forgotten")
    parser.add_argument("--max-songs", type=int, default=100, help="songs per split in the measures (default 100)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read MIDI files")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the splits, the order of the songs and the sampler (default 0)"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="GROUP.KEY=VALUE", dest="overrides",
        help="changes to the recipe, as in train.py",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of everything this writes")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        run(args, sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError) as error:
        print(f"fine_tune.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fine_tune.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def run(args: argparse.Namespace, command: list[str]) -> None:
    """Do all steps that are not done, then write and print the report."""
    source = resolve_model(args.model)
    if args.lora < 0:
        raise ValueError(f"--lora {args.lora}: the rank must be positive, or 0 for none")
    load_arguments(RECIPE, args.overrides)
    keep_identity(
        args.output,
        {
            "midi": [str(path.resolve()) for path in args.midi],
            "model": args.model,
            "training": [args.lora, args.seed, args.overrides],
            "likelihood": [args.max_songs, None if args.base_corpus is None else str(args.base_corpus)],
            "recipes": {},
        },
    )
    perform(preparation(args, source))
    songs = count_songs(args.output / "corpus")
    runs = {"tuned": training(args, "run", RECIPE, [f"model.init_from={source}", *adapters(args)])}
    if args.scratch:
        runs["scratch"] = training(args, "scratch", scratch_recipe(args, source), [])
    models = {"before": str(source)}
    for name, step in runs.items():
        perform(step)
        models[name] = str(step.done.parent.parent / "best")
    report: dict[str, Any] = {
        "command": "python training/fine_tune.py " + shlex.join(command),
        "model": args.model,
        "lora_rank": args.lora,
        "songs": songs,
        "libraries": library_versions(),
        "nats_per_token": {name: measure(args, name, model) for name, model in models.items()},
    }
    report |= describe(report)
    text = f"# {args.model}, fine-tuned\n\nOn {report['how']}.\n\n{report['table']}\nMade by `{report['command']}`.\n"
    json_path, markdown_path = write_report(args.output / "fine_tune.json", report, text)
    figures = ["--card", str(CARD), "--figures", f"tuning={json_path}"]
    model = args.output / "model"
    export = (models["tuned"], "-o", str(model), *figures)
    perform(Step("export", model / "model.safetensors", "export_to_hub.py", export))
    print(text)
    print(f"written: {markdown_path}, {json_path} and the model {model}. To hear it:")
    print(f"  partimento generate --model {model} --bars 16 -o mine.mid")


def perform(step: Step) -> None:
    """Run a step that is not done."""
    if not step.done.exists():
        print(step.title, file=sys.stderr)
        run_step(step)


def preparation(args: argparse.Namespace, source: Path | str) -> Step:
    """Tokenise the songs with the vocabulary of the model."""
    corpus = args.output / "corpus"
    options = ["-o", str(corpus), "--profile", "open", "--processor", str(source), "--workers", str(args.workers)]
    return Step("preparing the songs", corpus / "report.json", "prepare_data.py", (*map(str, args.midi), *options))


def count_songs(corpus: Path) -> dict[str, int]:
    """Songs of each split. Raises ValueError when one of them is empty."""
    splits = json.loads((corpus / "report.json").read_text(encoding="utf-8"))["splits"]
    songs = {name: splits.get(name, {}).get("songs", 0) for name in SPLITS}
    if not all(songs.values()):
        raise ValueError(
            f"{sum(songs.values())} usable songs ({songs}): at least ten are needed, so that some can be held out; "
            f"{corpus / 'report.json'} says why files were rejected"
        )
    return songs


def training(args: argparse.Namespace, folder: str, recipe: Path, settings: list[str]) -> Step:
    """Train into a subfolder of the output."""
    settings = [f"train.max_minutes={args.minutes}", *settings, *args.overrides]
    step = training_step(recipe, args.output / folder, args.output / "corpus", args.seed, settings)
    return Step(f"training ({folder})", step.done, step.program, step.arguments)


def adapters(args: argparse.Namespace) -> list[str]:
    """Settings of the adapters."""
    return [f"model.lora_rank={args.lora}", f"train.learning_rate={LORA_LEARNING_RATE}"] if args.lora else []


def scratch_recipe(args: argparse.Namespace, source: Path | str) -> Path:
    """The recipe for the architecture of `source` with random weights."""
    config = AutoConfig.from_pretrained(source)
    values = {key: getattr(config, key) for key in type(config).__annotations__}
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe["model"] |= {"model_type": config.model_type, "config": json.loads(json.dumps(values))}
    path = args.output / "scratch.yaml"
    write_atomically(path, yaml.safe_dump(recipe, sort_keys=False))
    return path


def measure(args: argparse.Namespace, name: str, model: str) -> dict[str, float]:
    """Nats per token of a model on every split of the songs and, where there is one, on the test split of the base."""
    places = {"own": (args.output / "corpus", SPLITS)}
    if args.base_corpus is not None:
        places["base"] = (args.base_corpus, ("test",))
    figures = {}
    for place, (corpus, splits) in places.items():
        options = [
            "--model",
            model,
            "--corpus",
            str(corpus),
            "--ngram",
            "0",
            "--conditions",
            "all",
            "--splits",
            *splits,
        ]
        step = report_step(
            f"{name}-{place}", "evaluate_lm.py", args.output, [*options, "--max-songs", str(args.max_songs)]
        )
        perform(step)
        report = json.loads(step.done.read_text(encoding="utf-8"))
        for split in splits:
            key = split if place == "own" else "base"
            figures[key] = report["splits"][split]["model"]["all_conditions"]["nats_per_token"]
    return figures


def describe(report: dict[str, Any]) -> dict[str, str]:
    """What was trained, and the figures as a table."""
    figures, titles = (
        report["nats_per_token"],
        {"before": report["model"], "tuned": "fine-tuned", "scratch": "new weights"},
    )
    columns = [name for name in (*SPLITS, "base") if name in figures["before"]]
    header = ["nats per token", *(f"own {name}" if name in SPLITS else "base test" for name in columns)]
    rows = [[titles[name], *(values[column] for column in columns)] for name, values in figures.items()]
    how = f"adapters of rank {report['lora_rank']}, merged" if report["lora_rank"] else "all weights"
    return {"how": how, "table": markdown_table(header, rows)}


if __name__ == "__main__":
    sys.exit(main())

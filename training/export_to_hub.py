"""Turns a training run into a model folder in Hub layout, a prepared corpus into a dataset folder, and a Space into a
folder that starts where partimento is not installed.

    python training/export_to_hub.py runs/museformer-small-open/best -o checkpoints/museformer-small \\
        --card training/cards/museformer-small.md \\
        --figures likelihood=build/likelihood.json samples=build/samples.json corpus=build/corpus/report.json

    python training/export_to_hub.py runs/musicvae-mel-2bar-small-open/best -o checkpoints/musicvae-mel-2bar-small \\
        --card training/cards/musicvae-mel-2bar-small.md \\
        --figures evaluation=build/mel/report.json attributes=build/mel/attributes.json \\
        --files build/mel/latent_info.json build/mel/attributes.{safetensors,json,md} build/mel/report_strips.png

The folder holds half-precision safetensors, the configuration with `auto_map` for the Auto classes, the model's code
(so that `trust_remote_code=True` works where partimento is not installed), tokenizer, processor, generation
configuration, the learning curve of the run, further files (--files) and the model card. Figures that the card names,
such as `{{likelihood.splits.test.songs:,}}`, are filled in from the JSON files given by name; `run` is read from the
log of the run.

    python training/export_to_hub.py runs/museformer-small-open/best -o my-model --push my-name/my-model

also uploads the finished folder; log in before with `hf auth login` (or set HF_TOKEN to a token that may write).

    python training/export_to_hub.py build/corpus -o my-dataset --push my-name/my-dataset

does the same with a corpus of prepare_data.py: both configurations, the processor, the counts and the dataset card.
Songs whose licence does not allow it stay behind, as MIDI and as tokens (from which the MIDI could be made); the card
says how many of which source. `--include-licence TEXT` takes those along that you may pass on.

    python training/export_to_hub.py spaces/composer -o my-space --push my-name/my-space
    python training/export_to_hub.py spaces/composer -o my-space --model runs/museformer-small-open/best

writes a Space with the Python of this package beside its app.py and requirements of other people's packages alone:
`pip install -r my-space/requirements.txt && python my-space/app.py` starts it, here as on Hugging Face. `--model` names
what it works with: a model folder or embedded checkpoint, which goes along, or a Hub id. Outside a checkout `composer`
and `loops` are the names of the installed ones: python -m partimento.training.export_to_hub composer -o my-space
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig

from partimento.modeling import DenseVAEConfig, MusicVAEConfig
from partimento.tokenization import DenseVAEProcessor, MidiProcessor, MusicVAEProcessor
from partimento.training.checkpointing import replace_folder
from partimento.training.corpus_export import export_corpus, is_corpus
from partimento.training.corpus_writing import stage_lines
from partimento.training.hub_push import PushError, RepoType, push
from partimento.training.run_log import read_log
from partimento.training.space_export import export_space, is_space

BELONGINGS = ("latent_info.json", "attributes.safetensors", "attributes.json", "attributes.md")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source",
        type=Path,
        help="folder with config.json, weights and processor (a run's best/ or final/), a corpus of prepare_data.py, "
        "or a Space (app.py and a README.md with its settings)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder to write; replaced as a whole when complete"
    )
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float16", help="type of the stored weights (default float16)"
    )
    parser.add_argument(
        "--card", type=Path, help="model card with {{names}} of figures; default: keep the card that is there"
    )
    parser.add_argument(
        "--files",
        nargs="*",
        type=Path,
        default=[],
        help="further files; pictures, latent_info.json and attributes.* of the source come along unasked",
    )
    parser.add_argument("--figures", nargs="*", default=[], metavar="NAME=FILE", help="JSON reports the card quotes")
    parser.add_argument(
        "--include-licence",
        nargs="*",
        default=[],
        metavar="TEXT",
        help="of a corpus: further values of the column `licence` whose songs go along",
    )
    parser.add_argument(
        "--model", help="of a Space: the model folder, embedded checkpoint or Hub id that it works with"
    )
    parser.add_argument(
        "--checkpoints",
        nargs="*",
        metavar="NAME",
        help="of a Space: the embedded checkpoints that go along (default: those of its checkpoints.txt, else all)",
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="with --push: a repository that is new is private")
    return parser


def export(source: Path, output: Path, dtype: torch.dtype, card: str | None = None, files: Sequence[Path] = ()) -> None:
    """Writes the Hub folder beside `output` first and then puts it in its place.

    Args:
        files: copied into the folder, as are the pictures and `BELONGINGS` of `source`.

    Raises:
        ValueError: processor and model do not belong together, or `files` names what is not there.
    """
    if missing := [str(path) for path in files if not path.is_file()]:
        raise ValueError(f"--files: there is no {', '.join(missing)}")
    config = AutoConfig.from_pretrained(source)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    is_autoencoder = isinstance(config, MusicVAEConfig | DenseVAEConfig)
    write = write_autoencoder if is_autoencoder else write_language_model
    classes = write(source, partial, dtype)
    config_path = partial / "config.json"
    stored = json.loads(config_path.read_text())
    stored["auto_map"] |= {
        name: f"{found.__module__.split('.')[-1]}.{found.__name__}" for name, found in classes.items()
    }
    config_path.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")

    belonging = [path for path in source.iterdir() if path.name in BELONGINGS or path.suffix == ".png"]
    for path in (*belonging, source.parent / "curves.png", *files):
        if path.is_file():
            shutil.copyfile(path, partial / path.name)
    kept_card = output / "README.md"
    if card is None and kept_card.is_file():
        card = kept_card.read_text()
    if card is not None:
        (partial / "README.md").write_text(card)
    for path in partial.iterdir():
        path.chmod(0o644)
    replace_folder(partial, output)


def write_language_model(source: Path, folder: Path, dtype: torch.dtype) -> dict[str, type]:
    """Writes model and processor; returns the class behind each Auto class."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    processor = MidiProcessor.from_pretrained(source)
    if model.config.vocab_size != len(processor.tokenizer):
        raise ValueError(f"{source}: {model.config.vocab_size} embeddings for {len(processor.tokenizer)} tokens")
    base_class = type(AutoModel.from_config(model.config))
    type(model.config).register_for_auto_class()
    type(model).register_for_auto_class("AutoModelForCausalLM")
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"AutoModelForCausalLM": type(model), "AutoModel": base_class}


def write_autoencoder(source: Path, folder: Path, dtype: torch.dtype) -> dict[str, type]:
    """As `write_language_model`, for a MusicVAE or a dense VAE; one of images has no processor."""
    model = AutoModel.from_pretrained(source, dtype=torch.float32)
    processor = autoencoder_processor(source, model.config)
    facts = {} if processor is None else processor.model_config_kwargs()
    for name, value in facts.items():
        if getattr(model.config, name) != value:
            raise ValueError(
                f"{source}: {name} is {getattr(model.config, name)} in the model, {value} in the processor"
            )
    type(model.config).register_for_auto_class()
    type(model).register_for_auto_class("AutoModel")
    model.to(dtype).save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    classes = {"AutoModel": type(model)}
    return classes | {"AutoModelForSeq2SeqLM": type(model)} if isinstance(model.config, MusicVAEConfig) else classes


def autoencoder_processor(source: Path, config: PreTrainedConfig) -> MusicVAEProcessor | DenseVAEProcessor | None:
    """What turns MIDI into the grids of the model; `None` for a dense VAE without one."""
    if isinstance(config, MusicVAEConfig):
        return MusicVAEProcessor.from_pretrained(source)
    return DenseVAEProcessor.from_pretrained(source) if (source / "processor_config.json").is_file() else None


def run_figures(run: Path) -> dict:
    """What the log of a training run says about the exported weights; empty where there is no log."""
    log, facts = run / "log.jsonl", run / "run.json"
    if not (log.is_file() and facts.is_file()):
        return {}
    entries = list(read_log(log))
    best = [entry for entry in entries if entry["kind"] == "validation" and entry["best"]][-1]
    trained = [entry for entry in entries if entry["kind"] == "train"]
    seen = [entry for entry in trained if entry["update"] <= best["update"]]
    return {
        "run": {
            "commit": json.loads(facts.read_text())["commit"] or "unknown",
            "update": best["update"],
            "updates": max(entry["update"] for entry in entries),
            "tokens_seen": seen[-1]["tokens_seen"] if seen else 0,
            "minutes": trained[-1]["seconds"] / 60 if trained else 0.0,
        }
    }


def fill_card(template: str, figures: dict) -> str:
    """Replaces `{{a.b.c}}` or `{{a.b.c:.3f}}` by the figure at that path; a number in the path counts from 0 in a list.

    Raises:
        ValueError: the template names a figure that the reports do not hold.
    """

    def figure(match: re.Match) -> str:
        value = figures
        for name in match["path"].split("."):
            if isinstance(value, list) and name.isdigit() and int(name) < len(value):
                value = value[int(name)]
                continue
            if not isinstance(value, dict) or name not in value:
                raise ValueError(
                    f"the card names {match['path']!r}, which no evaluation file holds (missing: {name!r})"
                )
            value = value[name]
        if isinstance(value, bool):
            return "yes" if value else "no"
        return format(value, match["format"] or "")

    return re.sub(r"\{\{\s*(?P<path>[\w.,\- ]+?)\s*(?::(?P<format>[^}]+))?\}\}", figure, template)


def export_run(options: argparse.Namespace) -> None:
    """A model folder, as the command line asks for it."""
    figures = run_figures(options.source.parent)
    for item in options.figures:
        name, _, path = item.partition("=")
        if not path:
            raise ValueError(f"--figures {item!r} must read NAME=FILE")
        figures[name] = json.loads(Path(path).read_text())
    card = fill_card(options.card.read_text(), figures) if options.card else None
    export(options.source, options.output, DTYPES[options.dtype], card, options.files)


def main() -> int:
    """Runs the command; returns the exit status."""
    options = make_parser().parse_args()
    repo_type: RepoType = "model"
    own = Path(__file__).resolve().parents[1] / "spaces" / options.source
    if not options.source.exists() and is_space(own):  # of an installation: `composer` or `loops`
        options.source = own
    try:
        if is_space(options.source):
            repo_type = "space"
            export_space(options.source, options.output, options.model, options.checkpoints)
        elif options.model or options.checkpoints:
            raise ValueError(f"--model and --checkpoints belong to a Space; {options.source} is none")
        elif is_corpus(options.source):
            repo_type = "dataset"
            report = export_corpus(options.source, options.output, include=options.include_licence)
            print("\n".join(stage_lines(report)))
        else:
            export_run(options)
        files = sorted(path for path in options.output.rglob("*") if path.is_file())
        print(f"{options.output}: {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")
        package = [path for path in files if path.is_relative_to(options.output / "partimento")]
        for path in files:
            if path not in package:
                print(f"  {path.stat().st_size:>12,}  {path.relative_to(options.output)}")
        if package:
            print(f"  {sum(path.stat().st_size for path in package):>12,}  partimento/ ({len(package)} files)")
        if options.push:
            print(push(options.output, options.push, repo_type, options.private))
    except (ValueError, OSError, PushError) as error:
        print(f"export_to_hub.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

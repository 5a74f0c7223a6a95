"""What held-out music costs a model: teacher-forced likelihood of whole songs, beside an n-gram model on the same ones.

    python training/evaluate_lm.py --model checkpoints/museformer-small --corpus build/corpus -o build/report.json
    python training/evaluate_lm.py --corpus build/corpus -o build/ngram.json       # the n-gram model alone

Every song is read from BOS to EOS, once behind all its known conditions and once behind none; tokens from the first
`Bar` to EOS count. The training split is a seeded subset as large as the test split. The n-gram model is interpolated
modified Kneser-Ney over the whole training split. Any causal language model of the package will do.

Figures, all of them corpus-level (sums over songs divided by sums):

    nats per token    natural logarithm; exp of it is the perplexity, and a uniform guess costs ln(vocabulary)
    PPL(N)            perplexity of the first N tokens of every song, whole songs where they are shorter, as in the
                      Museformer paper (1,024, 5,120 and 10,240). It falls with N when a long past helps
    bits per bar/note base 2, independent of the vocabulary: compare models of different tokenisations by these
    by genre, length  the same for groups of songs; by position: the loss of tokens 1-1,024, 1,025-5,120, ...

Writes the JSON report (with the losses of each song, for paired comparisons) and the tables as Markdown beside it.
Finished batches are kept in OUTPUT.parts until then: after an interruption the same command goes on from there.

On a CPU with bfloat16 instructions `--dtype bfloat16` halves the time; on a busy machine OMP_NUM_THREADS=1 helps more.

This is the only program that reads the test split: choose models by their validation loss.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

import partimento.modeling  # noqa: F401  (registers the architectures)
from partimento.pipelines.generation import resolve_model
from partimento.tokenization import MidiProcessor
from partimento.training.devices import choose_device
from partimento.training.likelihood import CountedTokens, iterate_token_nll, score_songs
from partimento.training.likelihood_report import add_row, find_alarms, markdown
from partimento.training.likelihood_store import LossStore, weights_fingerprint
from partimento.training.ngram import NGramModel
from partimento.training.reports import library_versions, report_paths, write_report
from partimento.training.songs import (
    CONDITIONS,
    Song,
    corpus_vocab_hash,
    fingerprint,
    inputs_of,
    read_songs,
    seeded_subset,
    token_subset,
    transposed,
)

SPLITS = ("train", "validation", "test")
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="model folder, embedded checkpoint or Hub id; without it only the n-gram model is evaluated"
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by prepare_data.py")
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=list(SPLITS),
        help="of the corpus; training songs show the gap (default: all)",
    )
    parser.add_argument("--ngram", type=int, default=5, metavar="ORDER", help="order of the n-gram model; 0: none")
    parser.add_argument(
        "--ngram-tokens", type=int, metavar="N",
        help="fit the n-gram model on a seeded draw of training songs of so many tokens (default: on all)",
    )  # fmt: skip
    parser.add_argument(
        "--ngram-transpose", type=int, nargs=2, metavar=("LOW", "HIGH"),
        help="a second n-gram model, of the training split in every transposition by LOW to HIGH semitones",
    )  # fmt: skip
    parser.add_argument(
        "--conditions", choices=("both", "all"), default="both",
        help="score every song with and without its conditions, or only behind all of them: half the time",
    )  # fmt: skip
    parser.add_argument("--max-songs", type=int, help="at most this many songs of each split, a seeded draw")
    parser.add_argument("--max-tokens", type=int, help="read only this many tokens of a song (default: all)")
    parser.add_argument("--batch-tokens", type=int, default=8_192, help="tokens per forward pass, with padding")
    parser.add_argument(
        "--chunk-tokens", type=int, help="read songs in pieces through the model's cache: less memory, the same losses"
    )
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="autocast type (default: bfloat16 on a GPU)")
    parser.add_argument("--device", help="default: the first GPU when there is one, else the CPU")
    parser.add_argument("--gap-alarm", type=float, default=0.5, help="nats per token between splits that warn")
    parser.add_argument("--seed", type=int, default=0, help="of the song draws")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON report; Markdown goes beside it")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        evaluate(args, sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError) as error:
        print(f"evaluate_lm.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evaluate_lm.py: interrupted; the same command goes on from the last finished batch", file=sys.stderr)
        return 130
    return 0


def evaluate(args: argparse.Namespace, command: list[str]) -> None:
    """Score all splits, then write and print the report."""
    report_paths(args.output)
    choose_device(args.device)
    if args.model is None and args.ngram == 0:
        raise ValueError("nothing to evaluate: give --model, or an order of --ngram above 0")
    if not (args.corpus / "processor").is_dir():
        raise ValueError(f"{args.corpus}: no corpus (a folder written by prepare_data.py)")
    source = None if args.model is None else resolve_model(args.model)
    processor = MidiProcessor.from_pretrained(args.corpus / "processor")
    check_vocabulary(processor, args.corpus, args.splits, source)
    splits = choose_songs(args.corpus, args.splits, args.max_songs, args.seed)
    report: dict[str, Any] = {
        "model": args.model,
        "corpus": str(args.corpus),
        "vocab_hash": processor.vocab_hash,
        "command": "python training/evaluate_lm.py " + " ".join(command),
        "log_base": {"nats": "e", "bits": 2},
        "seed": args.seed,
        "max_tokens": args.max_tokens,
        "conditions": chosen_conditions(args),
        "libraries": library_versions(),
        "splits": {
            split: {"songs": len(songs), "fingerprint": fingerprint(songs), "md5": [song.md5 for song in songs]}
            for split, songs in splits.items()
        },
    }
    if args.ngram:
        report["ngram"] = add_ngram("ngram", [0], report["splits"], splits, args, processor)
    if args.ngram and args.ngram_transpose:
        low, high = args.ngram_transpose
        shifts = list(range(low, high + 1))
        report["ngram_transposed"] = add_ngram("ngram_transposed", shifts, report["splits"], splits, args, processor)
    store = None
    if source is not None:
        counted = CountedTokens.from_processor(processor)
        about, store = add_model(report["splits"], splits, source, args, counted)
        report |= about
    if {"validation", "test"} <= set(report["splits"]) and args.model is not None:
        loss = {
            split: report["splits"][split]["model"]["all_conditions"]["nats_per_token"] for split in report["splits"]
        }
        report["test_over_validation"] = loss["test"] / loss["validation"]
    report["alarms"] = find_alarms(report["splits"], args.gap_alarm)
    text = markdown(report)
    json_path, markdown_path = write_report(args.output, report, text)
    if store is not None:
        store.remove()
    print(text)
    for alarm in report["alarms"]:
        print(f"ALARM: {alarm}", file=sys.stderr)
    print(f"written: {json_path} and {markdown_path}")


def chosen_conditions(args: argparse.Namespace) -> list[str]:
    """The members of CONDITIONS to score; `all_conditions` is always among them."""
    return list(CONDITIONS if args.conditions == "both" else CONDITIONS[:1])


def check_vocabulary(processor: MidiProcessor, corpus: Path, splits: list[str], model: str | None) -> None:
    """Refuse token ids of another vocabulary: their likelihood would be a number without meaning."""
    hashes = {f"{corpus}/processor": processor.vocab_hash}
    hashes.update({f"{corpus} ({split})": corpus_vocab_hash(corpus, split) for split in splits})
    if model is not None:
        hashes[str(model)] = MidiProcessor.from_pretrained(model).vocab_hash
    different = {place: value for place, value in hashes.items() if value not in (None, processor.vocab_hash)}
    if different:
        raise ValueError(
            f"vocabulary {processor.vocab_hash} of {corpus}/processor differs from that of {different}; a corpus for a "
            "model that was trained on another one is made by prepare_data.py --processor FOLDER_OF_THE_MODEL"
        )


def choose_songs(corpus: Path, splits: list[str], max_songs: int | None, seed: int) -> dict[str, list[Song]]:
    """The songs to score; as many of the training split as of the test (else the validation) split."""
    songs = {split: seeded_subset(read_songs(corpus, split), max_songs, seed) for split in splits}
    for held_out in ("test", "validation"):
        if "train" in songs and held_out in songs:
            songs["train"] = seeded_subset(songs["train"], len(songs[held_out]), seed)
            break
    return songs


def add_ngram(
    row: str,
    shifts: list[int],
    report: dict[str, Any],
    splits: dict[str, list[Song]],
    args: argparse.Namespace,
    processor: MidiProcessor,
) -> dict[str, Any]:
    """Fit on the whole training split, with and without conditions; add a row to every split."""
    counted = CountedTokens.from_processor(processor)
    everything = token_subset(read_songs(args.corpus, "train"), args.ngram_tokens, args.seed)
    about: dict[str, Any] = {"order": args.ngram, "smoothing": "interpolated modified Kneser-Ney", "semitones": shifts}
    for conditions in chosen_conditions(args):
        start = time.perf_counter()
        songs = tqdm(shifts, desc=f"{args.ngram}-gram, {conditions}", unit="pass")
        parts = (
            inputs_of(transposed(everything, shift, processor), conditions, None, counted.bar_token_id)
            for shift in songs
        )
        ngram = NGramModel.fit_parts(parts, order=args.ngram, vocab_size=counted.vocab_size)
        about[conditions] = {
            "train_songs": len(everything),
            "train_tokens": ngram.num_train_tokens,
            "ngrams": [len(level.keys) for level in ngram.orders],
            "discounts": [level.discounts for level in ngram.orders],
            "seconds": round(time.perf_counter() - start, 1),
        }
        for split, chosen in splits.items():
            sequences, masks = inputs_of(chosen, conditions, args.max_tokens, counted.bar_token_id)
            nll = ngram.token_nll(sequences, masks)
            add_row(report[split], row, conditions, score_songs(chosen, sequences, nll, counted))
    return about


def load_model(name: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)


def add_model(
    report: dict[str, Any],
    splits: dict[str, list[Song]],
    source: str,
    args: argparse.Namespace,
    counted: CountedTokens,
) -> tuple[dict[str, Any], LossStore]:
    """Score every split with the neural model; returns what the figures depend on and the store of the losses."""
    device = choose_device(args.device)
    name = args.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    model = load_model(source).to(device)
    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights": weights_fingerprint(model),
        "precision": f"{name} on {device.type}",
    }
    songs_of = {split: fingerprint(songs) for split, songs in splits.items()}
    store = LossStore(parts_folder(args.output), {**about, "songs": songs_of, "max_tokens": args.max_tokens})
    for split, songs in splits.items():
        for conditions in chosen_conditions(args):
            sequences, masks = inputs_of(songs, conditions, args.max_tokens, counted.bar_token_id)
            start, part = time.perf_counter(), f"{split}-{conditions}"
            losses = store.load(part)
            batches = iterate_token_nll(
                model,
                sequences,
                masks,
                done=losses.keys(),
                batch_tokens=args.batch_tokens,
                chunk_tokens=args.chunk_tokens,
                autocast_dtype=DTYPES[name],
            )
            total, finished = sum(map(len, sequences)), sum(len(sequences[i]) for i in losses)
            title = f"{split}, {conditions}"
            with tqdm(total=total, initial=finished, unit="token", unit_scale=True, desc=title) as bar:
                for batch in batches:
                    store.add(part, batch)
                    losses |= batch
                    bar.update(sum(len(sequences[i]) for i in batch))
            nll = [losses[i] for i in range(len(songs))]
            add_row(report[split], "model", conditions, score_songs(songs, sequences, nll, counted))
            report[split]["model"][conditions]["seconds"] = round(time.perf_counter() - start, 1)
    return about, store


def parts_folder(output: Path) -> Path:
    """Where finished batches wait for the report."""
    return output.with_name(output.name + ".parts")


if __name__ == "__main__":
    sys.exit(main())

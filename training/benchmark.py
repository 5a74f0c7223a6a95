"""Speed and memory: training, decoding, tokenisation and loops, as ratios measured in one run.

    python training/benchmark.py --threads 1                         # all of it on a CPU: about half an hour
    python training/benchmark.py --threads 1 --quick                 # a few short lengths: minutes
    python training/benchmark.py --device cuda --preset paper        # on a GPU: up to 100,000 tokens

Writes `benchmark.json` and `benchmark.md` with the machine, the commit and the date. The peer of the bar attention is
a Llama with as many parameters, full causal attention in PyTorch's fused kernel, with transformers' dynamic and static
caches. Sequences are real: songs of a prepared corpus (`--corpus`), joined where one is too short; without a corpus a
band piece that the script writes itself. Weights are random: they do not change the time.

With one thread on a CPU all times are CPU time of the process, which suffers least from other programs; otherwise wall
time. Contestants take turns, the best round counts. A step is forward and backward, bf16 autocast, batch 1.
"""

import argparse
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

from partimento.pipelines.generation import MidiGenerator
from partimento.training.benchmark_decoding import LOSSY_WEIGHTS, decoding_speed, lossy_errors, stretches, whole_song
from partimento.training.benchmark_models import BACKENDS, PEER, full_attention_peer, museformer, num_parameters
from partimento.training.benchmark_music import example_band, long_sequence, tokenisation_speed
from partimento.training.benchmark_musicvae import musicvae_markdown, musicvae_speed
from partimento.training.benchmark_training import growth, training_speed
from partimento.training.reports import library_versions, markdown_table, write_report
from partimento.training.run_setup import git_commit

SECTIONS = ("training", "decoding", "batch", "song", "tokenisation", "musicvae")
TRAINING_LENGTHS = {"cpu": (1024, 2048, 4096, 8192, 16384, 32768), "cuda": (1024, 4096, 16384, 32768, 65536, 100_000)}
DECODING_POSITIONS = (500, 1000, 2000, 4000, 8000, 16000)
SONGS_AT_ONCE = {"cpu": 8, "cuda": 64}
BATCH_POSITION = 1000
QUICK = {"lengths": (1024, 2048), "positions": (500, 1000), "steps": 8, "song": 300, "files": 5, "musicvae": 3}
MEASURED = "contestant"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder of the two reports")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to measure")
    parser.add_argument("--preset", default="small", help="size in the training section (default small)")
    parser.add_argument("--decoding-preset", default="paper", help="size in the decoding section (default paper)")
    parser.add_argument("--model", default="museformer-small", help="model folder or embedded checkpoint of the song")
    parser.add_argument("--corpus", type=Path, help="prepared corpus (training/prepare_data.py), for real sequences")
    parser.add_argument("--midi", type=Path, help="folder of MIDI files for tokenisation (searched in depth)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of PyTorch")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens of the training section")
    parser.add_argument("--positions", type=int, nargs="+", help="positions of the decoding section")
    parser.add_argument("--backends", nargs="+", help=f"default {' '.join(BACKENDS)} and the peer '{PEER}'")
    parser.add_argument("--steps", type=int, default=48, help="decoded tokens per round (default 48)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of decoding (default 4)")
    parser.add_argument("--repeats", type=int, default=2, help="training steps per length (default 2)")
    parser.add_argument("--gigabytes", type=float, default=8, help="memory limit of a training step (default 8)")
    parser.add_argument("--seconds", type=float, default=120, help="time limit of a training step (default 120)")
    parser.add_argument("--quick", action="store_true", help="short lengths only, to see that everything runs")
    return parser


def measure_training(options, processor) -> dict:
    """Training section: rows, and the growth of time and memory between the lengths."""
    config = museformer(options.preset, processor, attention_dropout=0.0).config
    lengths = sorted(options.lengths or (QUICK["lengths"] if options.quick else TRAINING_LENGTHS[options.device]))
    song = long_sequence(processor, options.corpus, lengths[-1])[: lengths[-1]]
    settings = {name: getattr(options, name) for name in ("threads", "repeats", "device", "gigabytes", "seconds")}
    contestants = options.backends or [*BACKENDS, PEER]
    rows = training_speed(contestants, config, song, lengths, settings)
    low = min((length for length in lengths if length >= 4096), default=lengths[0])
    exponents = {
        name: {key: growth(rows, name, key, low, lengths[-1]) for key in ("seconds", "megabytes")}
        for name in contestants
    }
    return {
        "preset": options.preset,
        "tokens_per_bar": round(len(song) / song.count(processor.bar_token_id), 1),
        "rows": rows,
        "growth": {"from": low, "to": lengths[-1], "exponents": exponents},
    }


def measure_decoding(options, processor) -> dict:
    """Decoding section: rows, and the ratio to the peer with its default cache."""
    positions = sorted(options.positions or (QUICK["positions"] if options.quick else DECODING_POSITIONS))
    steps = QUICK["steps"] if options.quick else options.steps
    room = positions[-1] + steps * options.rounds + 1
    song = long_sequence(processor, options.corpus, room)[:room]
    model = museformer(options.decoding_preset, processor).eval().to(options.device)
    peer = full_attention_peer(model.config).eval().to(options.device)
    lossy = LOSSY_WEIGHTS if options.device == "cpu" else ()
    models = {"Museformer": model, **{f"Museformer, {weights}": model for weights in lossy}}
    models |= {f"{PEER}, dynamic cache": peer, f"{PEER}, static cache": peer}
    rows = decoding_speed(models, torch.tensor([song], device=options.device), positions, steps, options.rounds)
    times = {(row["contestant"], row["position"]): row["ms_per_token"] for row in rows}
    first = min(positions, key=lambda position: abs(position - 1000))
    for row in rows:
        row["peer_times"] = round(times[f"{PEER}, dynamic cache", row["position"]] / row["ms_per_token"], 2)
        row["times_first"] = round(row["ms_per_token"] / times[row["contestant"], first], 2)
    trained = MidiGenerator.from_pretrained(options.model, device="cpu").model if lossy else None
    return {
        "preset": options.decoding_preset,
        "lossy": trained and lossy_errors(trained, torch.tensor([song[:1600]]), 800),
        "parameters": {"Museformer": num_parameters(model), PEER: num_parameters(peer)},
        "tokens_per_bar": round(len(song) / song.count(processor.bar_token_id), 1),
        "first": first,
        "rows": rows,
    }


def measure_batch(options, processor) -> dict:
    """Batch section: tokens per second of several different songs at once."""
    steps, number = QUICK["steps"] if options.quick else options.steps, SONGS_AT_ONCE[options.device]
    position = QUICK["positions"][0] if options.quick else BATCH_POSITION
    length = position + steps * options.rounds + 1
    song = long_sequence(processor, options.corpus, 8 * length)
    songs = stretches(song, processor.bos_token_id, processor.bar_token_id, number, length).to(options.device)
    model = museformer(options.decoding_preset, processor).eval().to(options.device)
    peer = full_attention_peer(model.config).eval().to(options.device)
    models = {"Museformer": model, f"{PEER}, dynamic cache": peer, f"{PEER}, static cache": peer}
    rows = decoding_speed(models, songs, [position], steps, options.rounds)
    return {"preset": options.decoding_preset, "songs": number, "position": position, "rows": rows}


def measure_tokenisation(options, processor) -> dict:
    """Tokenisation section."""
    limit = QUICK["files"] if options.quick else 60
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(options.midi.rglob("*.mid")) if options.midi else []
        if not files:
            files = [Path(folder) / f"{variant}.mid" for variant in range(limit)]
            for variant, path in enumerate(files):
                example_band(42, variant).dump_midi(path)
        return tokenisation_speed(processor, files, limit)


def describe_machine(options) -> dict:
    """Processor, cores, load, threads and versions, so that a figure can be judged."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "threads": options.threads,
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
        "clock": "CPU time of the process" if options.device == "cpu" and options.threads == 1 else "wall time",
        **library_versions(),
    }


def as_markdown(report: dict) -> str:
    """The report as tables."""
    machine, parts = report["machine"], []
    parts.append(
        f"{report['date']}, commit `{report['commit']}`. {machine['gpu'] or machine['cpu']}, {machine['cores']} cores "
        f"(load {machine['load']}), {machine['threads']} threads, torch {machine['torch']}, transformers "
        f"{machine['transformers']}. Times: {machine['clock']}. Music: {report['music']}.\n"
    )
    if training := report.get("training"):
        lengths = sorted({row["tokens"] for row in training["rows"]})
        names = list(dict.fromkeys(row[MEASURED] for row in training["rows"]))
        cells = {(row[MEASURED], row["tokens"]): row for row in training["rows"]}
        growing = training["growth"]["exponents"]

        def line(name):
            for length in lengths:
                row = cells[name, length]
                yield row.get("skipped") or f"{row['seconds']:.2f} s, {row['megabytes']:,} MB"
            yield ", ".join("–" if value is None else f"{value:.2f}" for value in growing[name].values())

        parts.append(
            f"Training step, `{training['preset']}`, {training['tokens_per_bar']} tokens per bar; growth: exponents of "
            f"time and memory from {training['growth']['from']:,} to {training['growth']['to']:,} tokens.\n"
        )
        header = ["attention", *(f"{length:,}" for length in lengths), "growth"]
        parts.append(markdown_table(header, [[name, *line(name)] for name in names]))
    if decoding := report.get("decoding"):
        parts.append(
            f"Decoding through `generate`, `{decoding['preset']}`, batch 1, {decoding['tokens_per_bar']} tokens per "
            f"bar, parameters {decoding['parameters']}.\n"
        )
        header = [
            "position",
            MEASURED,
            "ms per token",
            "times faster than the peer's default",
            f"times position {decoding['first']:,}",
        ]
        rows = [
            [f"{row['position']:,}", row[MEASURED], f"{row['ms_per_token']:.2f}", f"{row['peer_times']:.1f}",
             f"{row['times_first']:.2f}", f"{row['cache_bytes'] / 2**20:.1f}"]
            for row in decoding["rows"]
        ]  # fmt: skip
        parts.append(markdown_table([*header, "cache, MB"], rows))
        for weights, error in (decoding["lossy"] or {}).items():
            parts.append(
                f"`{weights}` on `{report['model']}`, 799 tokens: divergence of the next token's distribution "
                f"{error['divergence']:.1e} nats, loss {error['loss_change']:+.1e} nats, the likeliest token is the "
                f"same in {error['same_likeliest']:.2%}.\n"
            )
    if batch := report.get("batch"):
        parts.append(
            f"{batch['songs']} songs at once, `{batch['preset']}`, from position {batch['position']:,}, through "
            "`generate`.\n"
        )
        rows = [[row[MEASURED], f"{row['ms_per_token']:.2f}", f"{row['tokens_per_second']:,}"] for row in batch["rows"]]
        parts.append(markdown_table([MEASURED, "ms per step", "tokens per second"], rows))
    if song := report.get("song"):
        parts.append(
            f"A song of {song['tokens']:,} tokens ({song['bars']} bars) with `{report['model']}`, sampled with the "
            f"grammar: {song['seconds']} s ({song['wall_seconds']} s wall).\n"
        )
    if speed := report.get("tokenisation"):
        parts.append(
            f"Tokenisation, reading included ({speed['files']} files, mean {speed['mean_notes']} notes): "
            f"{speed['files_per_second']} files per second and core.\n"
        )
    if loops := report.get("musicvae"):
        parts.append(musicvae_markdown(loops))
    return "\n".join(parts)


def main() -> int:
    """Runs the command; returns the exit status."""
    options = make_parser().parse_args()
    torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmark: --device cuda: PyTorch sees no CUDA device", file=sys.stderr)
        return 1
    generator = MidiGenerator.from_pretrained(options.model)
    processor = generator.processor
    if options.corpus:
        processor = type(processor).from_pretrained(options.corpus / "processor")
    report = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git_commit(),
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(options),
        "model": options.model,
        "music": f"songs of {options.corpus}" if options.corpus else "written by the benchmark",
    }
    if "decoding" in options.sections:
        report["decoding"] = measure_decoding(options, processor)
    if "batch" in options.sections:
        report["batch"] = measure_batch(options, processor)
    if "song" in options.sections:
        generator.model.to(options.device)
        report["song"] = whole_song(generator, QUICK["song"] if options.quick else 10_000)
    if "tokenisation" in options.sections:
        report["tokenisation"] = measure_tokenisation(options, processor)
    if "musicvae" in options.sections:
        report["musicvae"] = musicvae_speed(QUICK["musicvae"] if options.quick else 21, device=options.device)
    if "training" in options.sections:
        report["training"] = measure_training(options, processor)
    write_report(options.output / "benchmark.json", report, as_markdown(report))
    print(as_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())

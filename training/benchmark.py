"""Speed of decoding and of tokenisation, as ratios measured in one run.

    python training/benchmark.py --output build/bench
    python training/benchmark.py --model museformer-small --midi build/data/train_open/midi/openband

Writes `benchmark.json` and `benchmark.md` with the machine described. Music: the MIDI files below `--midi`; without
it a band piece that the script writes itself. Decoding is measured token by token with the cache, on real tokens.
"""

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from symusic import Note, Score, Tempo, TimeSignature, Track
from tqdm import tqdm

from partimento.pipelines.generation import MidiGenerator
from partimento.tokenization import MidiError, MidiProcessor
from partimento.training.reports import write_report

POSITIONS = (500, 1000, 2000, 4000)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder of the two reports")
    parser.add_argument("--model", default="museformer-small", help="model folder, embedded checkpoint or Hub id")
    parser.add_argument("--midi", type=Path, help="folder of real MIDI files (searched in depth)")
    parser.add_argument("--steps", type=int, default=192, help="tokens timed at each position and round (default 192)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all positions (default 3)")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch (default: its own choice)")
    return parser


def example_band(num_bars: int, variant: int = 0) -> Score:
    """A piece for piano, guitar, bass and drums in 4/4, 36 notes a bar, 12 ticks a beat."""
    score = Score(12)
    score.tempos.append(Tempo(0, 120))
    score.time_signatures.append(TimeSignature(0, 4, 4))
    piano, guitar, bass = Track("Piano", 0), Track("Guitar", 25), Track("Bass", 33)
    drums = Track("Drums", 0, is_drum=True)
    for bar in range(num_bars):
        start, root = 48 * bar, 36 + (0, 9, 5, 7)[bar % 4]
        for beat in range(4):
            bass.notes.append(Note(start + 12 * beat, 11, root, 90))
            for interval in (12, 16, 19):
                piano.notes.append(Note(start + 12 * beat + 6, 5, root + interval, 70))
            drums.notes.append(Note(start + 12 * beat, 3, 36 if beat % 2 == 0 else 38, 100))
            for half in (0, 6):
                drums.notes.append(Note(start + 12 * beat + half, 3, 42, 60 + 10 * (half == 0)))
                guitar.notes.append(
                    Note(start + 12 * beat + half, 6, root + 24 + (bar * 7 + beat * 3 + half + variant) % 12, 80)
                )
    score.tracks.extend([piano, guitar, bass, drums])
    return score


def tokenisation_speed(processor: MidiProcessor, files: list[Path]) -> dict:
    """Files per second and core of `MidiProcessor.encode`, reading included, on files of 1,200 to 1,800 notes."""
    chosen, notes = [], []
    for path in files:
        try:
            count = processor.load(path).note_num()
        except MidiError:
            continue
        if 1200 <= count <= 1800:
            chosen.append(path)
            notes.append(count)
        if len(chosen) == 60:
            break
    speeds = []
    for _ in range(3):
        started = time.perf_counter()
        for path in chosen:
            processor.encode(path)
        speeds.append(len(chosen) / (time.perf_counter() - started))
    speed = round(statistics.median(speeds), 1)
    return {"files": len(chosen), "mean_notes": round(statistics.fmean(notes)), "files_per_second": speed}


@torch.inference_mode()
def decoding_speed(generator: MidiGenerator, ids: list[int], steps: int, rounds: int) -> list[dict]:
    """Milliseconds a token with the cache from each position on: mean over `steps` tokens, median of the rounds."""
    model = generator.model
    row = torch.tensor([ids], device=model.device)
    positions = [position for position in POSITIONS if position + steps < len(ids)]
    times: dict[int, list[float]] = {position: [] for position in positions}
    for _ in tqdm(range(rounds), desc="decoding", unit="round"):
        for position in positions:
            output = model(row[:, :position], use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            for index in range(position, position + 16):
                model(row[:, index : index + 1], past_key_values=cache, use_cache=True)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            for index in range(position + 16, position + steps):
                model(row[:, index : index + 1], past_key_values=cache, use_cache=True)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times[position].append(1000 * (time.perf_counter() - started) / (steps - 16))
    base = statistics.median(times[positions[0]])
    return [
        {"position": position, "ms_per_token": round(statistics.median(values), 3),
         "ratio_to_first": round(statistics.median(values) / base, 3)}
        for position, values in times.items()
    ]  # fmt: skip


def describe_machine() -> dict:
    """Processor, cores, threads and versions, so that a figure can be judged."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}  # fmt: skip


def as_markdown(report: dict) -> str:
    """The report as two small tables."""
    machine = report["machine"]
    lines = [
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}"
        + (f", {machine['gpu']}" if machine["gpu"] else ""),
        "",
        f"Decoding, `{report['model']}`, batch 1, with the cache:",
        "",
        "| position | ms per token | against the first row |",
        "|---|---|---|",
        *(
            f"| {row['position']:,} | {row['ms_per_token']:.2f} | {row['ratio_to_first']:.2f} |"
            for row in report["decoding"]
        ),
        "",
        f"Tokenisation, reading included ({report['tokenisation']['files']} files, mean "
        f"{report['tokenisation']['mean_notes']} notes): {report['tokenisation']['files_per_second']} files per second "
        "and core",
        "",
        f"Peak memory of the process: {report['peak_memory_mb']:,} MB",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Runs the command; returns the exit status."""
    options = make_parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = MidiGenerator.from_pretrained(options.model)
    processor = generator.processor
    files = sorted(options.midi.rglob("*.mid")) if options.midi else []
    if options.midi and not files:
        print(f"benchmark: {options.midi}: no .mid files below this folder", file=sys.stderr)
        return 1
    ids: list[int] = []
    for path in files:
        try:
            candidate = processor.encode(path)
        except MidiError:
            continue
        if len(candidate) > POSITIONS[-1] + options.steps + 16:
            ids = candidate
            break
    ids = ids or processor.encode(example_band(96))
    report = {
        "machine": describe_machine(),
        "model": options.model,
        "tokens_in_song": len(ids),
        "music": str(options.midi or "written by the benchmark"),
        "decoding": decoding_speed(generator, ids, options.steps, options.rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        if not files:
            files = [Path(folder) / f"{variant}.mid" for variant in range(60)]
            for variant, path in enumerate(files):
                example_band(42, variant).dump_midi(path)
        report["tokenisation"] = tokenisation_speed(processor, files)
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    write_report(options.output / "benchmark.json", report, as_markdown(report))
    print(as_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())

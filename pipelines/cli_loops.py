"""The commands of the latent space: interpolate, vary, sample, attribute."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from partimento.pipelines.cli_output import OUTPUT_HELP, check_output, numbered, picture_option, picture_path

if TYPE_CHECKING:
    from partimento.pipelines.loops import Loop, LoopGenerator

__all__ = ["LOOP_COMMANDS", "LOOP_EXAMPLES", "add_loop_commands", "run_loop_command"]

LOOP_COMMANDS = ("interpolate", "vary", "sample", "attribute")
LOOP_EXAMPLES = """  partimento sample -n 4 --seed 1 -o loop.mid
  partimento interpolate a.mid b.mid --steps 8 -o morph.mid --piano-roll
  partimento vary a.mid -n 8 --similarity 0.8
  partimento attribute a.mid --density +1.0 -o busier.mid
"""
_DEFAULT_MODEL = "musicvae-mel-2bar-small"  # not imported: `--help` should not wait for torch
_ATTRIBUTES = {
    "density": ("note_density", "more notes"),
    "interval": ("average_interval", "wider leaps"),
    "c-major": ("c_diatonic", "more notes of C major"),
    "syncopation-16th": ("syncopation_16th", "more onsets on odd sixteenths"),
    "syncopation-8th": ("syncopation_8th", "more onsets on offbeat eighths"),
}
_WINDOW_HELP = """which bars are taken:
  A model reads a window of a fixed number of bars in 4/4. Unasked, it is the first one with at least three onsets, of
  the track called melody, vocal or alike, or else of the track that plays most and is least polyphonic (no bass). What
  was taken and what was left out is printed. --bar 9 chooses bars 9 and on, --track 2 or --track flute the melody,
  --track all the highest notes of all tracks.
"""


def add_loop_commands(commands) -> None:
    """Add the four commands to the sub-parsers of `partimento`."""
    interpolate = _add(
        commands, "interpolate", "walk from one MIDI file to another in the latent space",
        "partimento interpolate a.mid b.mid --steps 8 -o morph.mid --piano-roll\n"
        "  partimento interpolate a.mid b.mid --bar 5,1 --track 2,flute --separate -o step.mid\n"
        "  partimento interpolate beat.mid fill.mid --model musicvae-drums-2bar-small --steps 5", windows=True,
    )  # fmt: skip
    interpolate.add_argument("midi", type=Path, nargs=2, metavar="FILE", help="where the walk begins, where it ends")
    interpolate.add_argument("--steps", type=int, default=8, metavar="N", help="loops, both ends included (default 8)")
    interpolate.add_argument("--method", choices=("linear", "slerp"), default="linear", help=(
        "straight (default), or along the great circle"))  # fmt: skip
    interpolate.add_argument("--separate", action="store_true", help="one file per step instead of one behind another")

    vary = _add(
        commands, "vary", "write relatives of a MIDI file",
        "partimento vary a.mid -n 8 --similarity 0.8\n"
        "  partimento vary a.mid -n 4 --similarity 0.5 --seed 3 --join -o relatives.mid", windows=True,
    )  # fmt: skip
    vary.add_argument("midi", type=Path, metavar="FILE", help="what is varied")
    vary.add_argument("-n", "--outputs", type=int, default=8, metavar="N", help="how many (default 8)")
    vary.add_argument("--similarity", type=float, default=0.8, metavar="S", help=(
        "1 repeats the model's reconstruction, 0 is unrelated (default 0.8)"))  # fmt: skip
    vary.add_argument("--join", action="store_true", help="one file, one behind another, instead of numbered ones")

    sample = _add(
        commands, "sample", "write new loops out of nothing",
        "partimento sample -n 4 --seed 1\n"
        "  partimento sample --model musicvae-drums-2bar-small -n 4 --tempo 96 -o beat.mid", temperature=0.5,
    )  # fmt: skip
    sample.add_argument("-n", "--outputs", type=int, default=1, metavar="N", help="how many (default 1)")
    sample.add_argument("--join", action="store_true", help="one file, one behind another, instead of numbered ones")

    attribute = _add(
        commands, "attribute", "make a melody busier, wider, more or less syncopated, ...",
        "partimento attribute a.mid --density +1.0\n"
        "  partimento attribute a.mid --density -0.5 --syncopation-8th 1 -o calmer.mid", windows=True,
    )  # fmt: skip
    attribute.add_argument("midi", type=Path, metavar="FILE", help="what is changed")
    amounts = attribute.add_argument_group("amounts (factors of the attribute's vector, -1.5 to 1.5 is usual)")
    for option, (_, meaning) in _ATTRIBUTES.items():
        amounts.add_argument(f"--{option}", type=float, metavar="X", help=f"{meaning}; below zero the opposite")


def _add(commands, name, summary, examples, windows=False, temperature=0.0) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".",
        epilog=f"examples:\n  {examples}\n" + (f"\n{_WINDOW_HELP}" if windows else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    if windows:
        window = parser.add_argument_group("window (see below; two values A,B for two files)")
        window.add_argument("--bar", metavar="N", help="first bar, from 1 (default: the first usable one)")
        window.add_argument("--track", metavar="T", help="number, name or instrument of the melody, or all")
        window.add_argument("--any-metre", action="store_true", help="cut every 16 sixteenths, whatever the metre is")
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help=OUTPUT_HELP)
    output.add_argument("--tempo", type=float, metavar="BPM", help="default: the file's, or 120")
    output.add_argument("--piano-roll", nargs="?", type=picture_option, const=True, metavar="PNG", help=(
        "also draw it (default: beside the MIDI file)"))  # fmt: skip
    output.add_argument("-q", "--quiet", action="store_true", help="print nothing but the written files")
    model = parser.add_argument_group("model")
    model.add_argument("--model", default=_DEFAULT_MODEL, help=(
        f"model folder, embedded checkpoint or Hub id (default {_DEFAULT_MODEL})"))  # fmt: skip
    model.add_argument("--temperature", type=float, default=temperature, help=(
        f"0 takes the likeliest notes, 1 is the model's own chance (default {temperature:g})"))  # fmt: skip
    model.add_argument("--seed", type=int, help="the same seed gives the same notes (default: random, and printed)")
    return parser


def run_loop_command(options: argparse.Namespace) -> int:
    """Run one of `LOOP_COMMANDS`; the exit status is 0.

    Raises:
        ValueError, OSError: the request cannot be met; the message says why.
    """
    options.output = check_output(options.output, options.piano_roll, _num_files(options))
    amounts = {
        name: value for option, (name, _) in _ATTRIBUTES.items()
        if (value := getattr(options, option.replace("-", "_"), None)) is not None
    }  # fmt: skip
    if options.command == "attribute" and not amounts:
        raise ValueError(f"nothing to change: give at least one of --{', --'.join(_ATTRIBUTES)}")
    if not all(map(math.isfinite, amounts.values())):
        raise ValueError("the amount of an attribute must be a number, such as 1 or -0.5")
    from transformers.utils.logging import disable_progress_bar

    from partimento.pipelines.loops import LoopGenerator, join_loops

    disable_progress_bar()
    say = (lambda *_: None) if options.quiet else (lambda text: print(text, file=sys.stderr))
    generator = LoopGenerator.from_pretrained(options.model)
    sources = _read(options, generator, say)
    shared = {"temperature": options.temperature, "seed": options.seed, "tempo": options.tempo}
    if options.command == "interpolate":
        loops = generator.interpolate(*sources, options.steps, method=options.method, **shared)
        joined = not options.separate
    elif options.command == "vary":
        loops = generator.vary(*sources, options.outputs, similarity=options.similarity, **shared)
        joined = options.join
    elif options.command == "sample":
        shared["tempo"] = 120.0 if options.tempo is None else options.tempo
        loops = generator.sample(options.outputs, **shared)
        joined = options.join
    else:
        loops, joined = [generator.apply_attributes(*sources, amounts, **shared)], False
        _say_change(generator, sources[0], loops[0], amounts, say)
    if loops[0].seed is not None:
        say(f"seed {loops[0].seed}")
    _write([join_loops(loops)] if joined else loops, options, say)
    return 0


def _num_files(options: argparse.Namespace) -> int:
    if getattr(options, "separate", False):
        return options.steps
    return 1 if getattr(options, "join", False) else getattr(options, "outputs", 1)


def _read(options: argparse.Namespace, generator: LoopGenerator, say) -> list[Loop]:
    """The windows of the files of a command, each announced."""
    paths = getattr(options, "midi", [])
    paths = [paths] if isinstance(paths, Path) else paths
    bars, tracks = (_per_file(options, name, len(paths)) for name in ("bar", "track"))
    loops = []
    for path, bar, track in zip(paths, bars, tracks):
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file")
        number = None if bar is None else _whole(bar)
        loop = generator.read(path, bar=number, track=track, any_metre=options.any_metre, tempo=options.tempo)
        say(f"{path}: {'; '.join(loop.remarks)}")
        loops.append(loop)
    return loops


def _per_file(options: argparse.Namespace, name: str, num_files: int) -> list[str | None]:
    """The values of an option for each file: one for all, or as many as there are files."""
    value = getattr(options, name, None)
    values = [None] if value is None else [item.strip() for item in value.split(",")]
    if len(values) not in (1, num_files):
        raise ValueError(f"--{name} {value}: give one value, or {num_files} for {num_files} file(s)")
    return values if len(values) == num_files else values * num_files


def _whole(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"--bar {text}: give a whole number from 1 on")
    return int(text)


def _say_change(generator: LoopGenerator, before: Loop, after: Loop, amounts: dict[str, float], say) -> None:
    start = generator.reconstruct(before)
    for name in amounts:
        say(f"{name.replace('_', ' ')}: {before.attributes[name]:.2f} in the file, {start.attributes[name]:.2f} in the "
            f"model's reconstruction, now {after.attributes[name]:.2f}")  # fmt: skip


def _write(loops: list[Loop], options: argparse.Namespace, say) -> None:
    total = len(loops)
    for number, loop in enumerate(loops, 1):
        path = loop.save(numbered(options.output, number, total))
        print(path)
        say(f"  {len(loop.ids) // len(loop.grid) // 16} bars, {loop.num_notes} notes, {loop.tempo:g} bpm")
        if options.piano_roll and loop.num_notes:
            picture = picture_path(path, options.piano_roll, number, total)
            loop.piano_roll(picture)
            print(picture)
        elif options.piano_roll:
            say("  no picture: it is silent")

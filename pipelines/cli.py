"""The `partimento` command: generate, continue, interpolate, vary, sample, attribute, space, info."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from partimento.pipelines.cli_loops import LOOP_COMMANDS, LOOP_EXAMPLES, add_loop_commands, run_loop_command
from partimento.pipelines.cli_output import (
    OUTPUT_HELP,
    check_output,
    numbered,
    picture_option,
    picture_path,
    with_picture_option,
)

DEFAULT_BARS = 16
DEFAULT_MODEL = "museformer-small"  # not imported: `--help` should not wait for torch

_EXAMPLES = f"""examples:
  partimento generate "a slow sad jazz trio with piano, bass and drums, 32 bars"
  partimento generate "tango en re menor con bandoneón y violín, sin batería, a 110" -o tango.mid
  partimento generate --genre jazz --instruments piano,bass,drums --bars 16 --seed 7 -o out.mid
  partimento generate --genre blues --tempo 96 --key A-minor -n 4 --piano-roll -o out/blues.mid
  partimento continue in.mid --bars 8 -o longer.mid
{LOOP_EXAMPLES}  partimento space composer
  partimento space loops
  partimento info museformer-small
  partimento info out.mid --json
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line, with help that teaches."""
    parser = argparse.ArgumentParser(
        prog="partimento",
        description="Write multi-track MIDI with a trained model, on a laptop, offline.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"partimento {version('partimento')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    generate = commands.add_parser(
        "generate", help="write a new piece from a text or from genre, instruments, tempo, ..."
    )
    generate.add_argument("text", nargs="*", metavar="TEXT", help=(
        "what to write, in English or Spanish; what is understood is printed, and an option counts more than the text"
    ))  # fmt: skip
    wishes = generate.add_argument_group("what to write (every part is optional)")
    wishes.add_argument("--genre", help="a label of the model: `partimento info museformer-small` lists them")
    wishes.add_argument("--instruments", type=_names, metavar="A,B,...", help=(
        "General MIDI families or programs, such as piano,nylon-guitar,drums; nothing else will sound"))  # fmt: skip
    wishes.add_argument("--without", type=_names, metavar="A,B,...", help="families or programs that may not sound")
    wishes.add_argument("--tempo", type=float, metavar="BPM", help="beats per minute, 24 to 200")
    wishes.add_argument("--key", help="such as A-minor, C-major, F#-minor; the finished piece is moved there")
    wishes.add_argument("--density", type=float, metavar="NOTES", help="notes per bar (the model is told, not forced)")
    wishes.add_argument("--mood", help="a label of the model, where it has any")
    wishes.add_argument("--artist", help="a label of the model, where it has any")
    wishes.add_argument("--bars", type=int, help=f"length in bars of 4/4 (default {DEFAULT_BARS})")
    _add_sampling(generate)

    proceed = commands.add_parser("continue", help="write more bars after a MIDI file")
    proceed.add_argument("midi", type=Path, metavar="FILE", help=(
        "the beginning, a .mid file in 4/4; its tracks are kept as they are, with the new bars behind"))  # fmt: skip
    proceed.add_argument("--without", type=_names, metavar="A,B,...", help="families or programs that may not sound")
    proceed.add_argument("--bars", type=int, default=8, help="how many bars to add (default 8)")
    proceed.add_argument("--genre", help="genre of the continuation")
    proceed.add_argument(
        "--instruments", type=_names, metavar="A,B,...", help="families of the new bars (default: the file's)"
    )
    _add_sampling(proceed)

    add_loop_commands(commands)

    space = commands.add_parser("space", help="start a Space on this machine, offline, in a browser")
    space.add_argument("name", choices=["composer", "loops"], help="which one")
    space.add_argument("--port", type=int, help="default: the first free one from 7860 on")

    info = commands.add_parser("info", help="tell what a MIDI file or a model is")
    info.add_argument("target", help="a .mid file, a model folder, an embedded checkpoint or a Hub id")
    info.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help=OUTPUT_HELP)
    output.add_argument("-n", "--outputs", type=int, default=1, metavar="N", help="how many pieces, made as one batch")
    output.add_argument("--piano-roll", nargs="?", type=picture_option, const=True, metavar="PNG", help=(
        "also draw each piece (default: beside the MIDI file)"))  # fmt: skip
    output.add_argument("-q", "--quiet", action="store_true", help="print nothing but the written files")
    sampling = parser.add_argument_group("sampling (defaults: the checkpoint's own)")
    sampling.add_argument("--seed", type=int, help="the same seed gives the same notes (default: random, and printed)")
    sampling.add_argument("--temperature", type=float, help="above 1 wilder, below 1 safer, 0 greedy")
    sampling.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens; 0 keeps all")
    sampling.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens of this mass")
    sampling.add_argument("--mix-programs", action="store_true", help=(
        "let all programs of a family sound; otherwise each plays with one, the usual one of the genre"))  # fmt: skip
    sampling.add_argument("--model", default=DEFAULT_MODEL, help=(
        f"model folder, embedded checkpoint or Hub id (default {DEFAULT_MODEL}, which needs no network)"))  # fmt: skip
    sampling.add_argument(
        "--weights",
        choices=["exact", "half", "int8"],
        default="exact",
        help=("half, int8: a Museformer on a CPU decodes from rounded weights, faster and not quite the same"),
    )
    sampling.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU when there is one)")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status is 0, 1 when the request was refused, 130 when stopped before a bar was done."""
    options = make_parser().parse_args(with_picture_option(sys.argv[1:] if arguments is None else arguments))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # no line for every attempt to reach the Hub
    commands = {"info": _info, "space": _space, **dict.fromkeys(LOOP_COMMANDS, run_loop_command)}
    try:
        status = commands.get(options.command, _write)(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `partimento info song.mid | head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"partimento {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _write(options: argparse.Namespace) -> int:
    if options.outputs < 1:
        raise ValueError(f"-n {options.outputs}: choose at least 1 output")
    if options.command == "continue" and not options.midi.is_file():
        raise ValueError(f"{options.midi}: {'this is a folder' if options.midi.is_dir() else 'there is no such file'}")
    from transformers.utils.logging import disable_progress_bar

    from partimento.pipelines.generation import MidiGenerator

    options.output = check_output(options.output, options.piano_roll, options.outputs)
    disable_progress_bar()
    say = (lambda *_: None) if options.quiet else (lambda text: print(text, file=sys.stderr))
    generator = MidiGenerator.from_pretrained(options.model, device=options.device, weights=options.weights)
    wishes = _wishes(options, generator, say)
    options.bars = wishes["bars"]
    shared = {
        "num_outputs": options.outputs, "seed": options.seed, "temperature": options.temperature,
        "top_k": options.top_k, "top_p": options.top_p, "one_program": not options.mix_programs,
    }  # fmt: skip
    with _bar_progress(options) as on_bar, _stop_on_interrupt() as stop:
        if options.command == "continue":
            pieces = generator.continue_midi(options.midi, on_bar=on_bar, stop=stop, **wishes, **shared)
        else:
            pieces = generator.generate(on_bar=on_bar, stop=stop, **wishes, **shared)
    say(f"seed {pieces[0].seed}, {pieces[0].seconds:.1f} s")
    finished = []
    for number, piece in enumerate(pieces, 1):
        path = numbered(options.output, number, len(pieces))
        if piece.score.note_num():
            piece.save(path, onto=options.midi if options.command == "continue" else None)
            finished.append((number, path, piece))
        else:
            say(f"{path}: not written, no bar was finished")
    for number, path, piece in finished:
        print(path)
        say(f"  {_summary(piece)}" + ("" if piece.complete else "  (ended early)"))
        if options.piano_roll:
            picture = picture_path(path, options.piano_roll, number, len(pieces))
            piece.piano_roll(picture)
            print(picture)
    return 0 if finished else 130


def _wishes(options: argparse.Namespace, generator, say) -> dict:
    """What is asked for: the text, and over it the options."""
    slots = ("genre", "artist", "mood", "key", "tempo", "density", "bars", "instruments", "without")
    given = {slot: value for slot in slots if (value := getattr(options, slot, None)) is not None}
    wishes: dict = {"bars": DEFAULT_BARS}
    if text := " ".join(getattr(options, "text", ())):  # without quotes the shell makes words of it
        from partimento.pipelines.prompt import PromptReader

        reading = PromptReader(generator.processor).read(text)
        for line in reading.explain() or ["nothing of the text was understood"]:
            say(line)
        wishes |= reading.request()
        for slot in sorted(given.keys() & reading.request().keys()):
            say(f"note        --{slot} goes before the text")
        if "instruments" in given and "without" not in given:
            wishes.pop("without", None)
    return wishes | given


def _summary(piece) -> str:
    from partimento.pipelines.keys import semitones_between
    from partimento.tokenization.conditions import parse_key
    from partimento.tokenization.general_midi import program_name

    names = [program_name(-1 if t.is_drum else t.program) for t in piece.score.tracks if len(t.notes)]
    measured = piece.measured()
    facts = [f"{piece.num_bars} bars", f"{piece.score.note_num()} notes", f"{measured['tempo']:.0f} bpm"]
    if key := measured.get("key"):  # drums have none
        asked = parse_key(piece.conditions.get("key", key))
        facts += [key if key == asked or semitones_between(key, asked) else f"{key} (the relative of {asked})"]
    return f"{', '.join(facts)}: {', '.join(names)}"


@contextmanager
def _bar_progress(options: argparse.Namespace):
    """A progress bar counted in bars of music; nothing when quiet."""
    if options.quiet:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=options.bars * options.outputs, unit="bar", desc="writing", file=sys.stderr, leave=False) as line:

        def on_bar(output: int, bar: int, total: int) -> None:
            line.update()
            line.set_postfix_str(f"output {output + 1}: bar {bar} of {total}" if options.outputs > 1 else "")

        yield on_bar


@contextmanager
def _stop_on_interrupt():
    """Ctrl-C once ends the generation and keeps the finished bars; twice leaves at once."""
    event = threading.Event()

    def handler(signum, frame):
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)


def _space(options: argparse.Namespace) -> int:
    """Runs the `app.py` of a Space folder, which stands beside the packages in a checkout and in an installation."""
    import runpy

    folder = Path(__file__).resolve().parents[1] / "spaces" / options.name
    if not (folder / "app.py").is_file():
        raise ValueError(f"this installation lacks the Space {options.name}: install partimento again")
    if find_spec("gradio") is None:
        raise ValueError("Spaces need gradio: pip install 'partimento[space]'")
    if options.port:
        os.environ["GRADIO_SERVER_PORT"] = str(options.port)
    sys.path.insert(0, str(folder))  # as `python app.py` would
    runpy.run_path(str(folder / "app.py"), run_name="__main__")
    return 0


def _info(options: argparse.Namespace) -> int:
    from partimento.pipelines.description import describe_midi, describe_model

    target = Path(options.target)
    facts = describe_midi(target) if target.is_file() else describe_model(options.target)
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
        print(f"{name.replace('_', ' '):<{width}}  {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

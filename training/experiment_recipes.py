"""Recipes of the experiments: options of a command in a YAML file of recipes/experiments/.

    python training/character_experiment.py --recipe training/recipes/experiments/characters-published.yaml \\
        --text quijote.txt -o runs/quijote

A recipe names its `program` and options of it, with underscores for hyphens; for a program with commands also the
`command`. What stands on the command line itself wins. Data and output folder stay with the user.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def parse_with_recipe(parser: argparse.ArgumentParser, argv: Sequence[str] | None, program: str) -> argparse.Namespace:
    """Parse the command line behind the options of the recipe that it names; errors end the program, as in argparse.

    Args:
        parser: gets the option `--recipe`.
        argv: the words of the command line, those of this process where it is None.
        program: what a recipe must name.
    """
    parser.add_argument("--recipe", type=Path, metavar="YAML", help="options from a file of recipes/experiments/")
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--recipe", type=Path)
    found, words = finder.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    if found.recipe is not None:
        try:
            command, options = read_recipe(found.recipe, program)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        if words and not words[0].startswith("-"):
            command, words = words[:1], words[1:]
        words = [*command, *options, *words]
    options = parser.parse_args(words)
    if options.recipe is not None:
        parser.error("write --recipe in full")
    options.recipe = found.recipe
    return options


def read_recipe(path: Path, program: str) -> tuple[list[str], list[str]]:
    """The command, where it names one, and the options of a recipe as words of a command line.

    Raises:
        ValueError: no mapping of option names, or of another program.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or content.get("program") != program:
        named = content.get("program") if isinstance(content, dict) else None
        raise ValueError(f"{path}: program is {named!r}, but this is {program}: choose a recipe of it")
    command = [str(content["command"])] if "command" in content else []
    words: list[str] = []
    for name, value in content.items():
        if name not in ("program", "command") and value is not False:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *map(_word, values)]
    return command, words


def _word(value: Any) -> str:
    return "none" if value is None else str(value)

"""Evaluation reports: one JSON file for machines and, beside it, the same figures as Markdown for people."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from partimento.training.checkpointing import write_atomically

LIBRARIES = ("partimento", "torch", "transformers", "numpy")


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that the figures depend on."""
    return {name: version(name) for name in LIBRARIES}


def report_paths(path: str | Path) -> tuple[Path, Path]:
    """Names of the JSON file and of the Markdown file beside it.

    Raises:
        ValueError: `path` ends in .md, the name of the second file.
    """
    path = Path(path)
    if path.suffix == ".md":
        raise ValueError(f"output={path}: give the name of the JSON file, such as {path.with_suffix('.json')}")
    return path, path.with_suffix(".md")


def write_report(path: str | Path, report: dict[str, Any], markdown: str) -> tuple[Path, Path]:
    """Write `report` as JSON and `markdown` beside it; each file appears complete or not at all."""
    json_path, markdown_path = report_paths(path)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(json_path, json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_atomically(markdown_path, markdown)
    return json_path, markdown_path


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(format_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def format_cell(value: Any) -> str:
    """Numbers with the digits that mean something, a dash for what could not be measured."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

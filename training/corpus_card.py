"""The dataset card of a corpus: README.md with the metadata that the Hub and `datasets.load_dataset` read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from partimento.training.corpus_grouping import SPLITS

CONFIGURATIONS = ("raw", "tokenized")
Sources = Mapping[tuple[str, str], int]  # (source, licence) -> songs

# Licences under which anybody may pass on a work and changed copies of it, by their names on the Hub.
OPEN_LICENCES = (
    "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc0-1.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "mit", "odbl", "odc-by", "pddl",
)  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
INTRODUCTION = """\
Songs as MIDI and as tokens, made by partimento's `training/prepare_data.py`. Configuration `raw` holds MIDI bytes
(`midi`), `tokenized` holds `input_ids` (BOS, condition tokens, bars, EOS); both have the same metadata columns, among
them `source` and `licence` of each song. The processor, which turns tokens into MIDI, is in `processor/`.

```python
from datasets import load_dataset

songs = load_dataset("FOLDER_OR_OWNER/NAME", "tokenized", split="train", streaming=True)
```

In a folder (`hf download OWNER/NAME --repo-type dataset --local-dir corpus`) it is what `training/train.py` takes as
`data.corpus`.
"""


def licence_id(text: str) -> str | None:
    """The Hub's name of an open licence that a text begins with, as `GPL-3.0-or-later (…)` does.

    Returns:
        None for anything else, and where the text goes on to say that something is in copyright.
    """
    words = re.match(r"[a-z0-9.-]+", text.lower())
    name = re.sub(r"-(or-later|only)$", "", words[0].rstrip(".")) if words else ""
    return name if name in OPEN_LICENCES and "copyright" not in text.lower() else None


def card_metadata(report: dict, sources: Sources, name: str) -> dict:
    """The YAML block: licences, size, and the files of each configuration and split."""
    present = [split for split in SPLITS if report["splits"][split]["songs"]]
    licences = sorted({licence_id(licence) or "other" for _, licence in sources})
    total = sum(row["songs"] for row in report["splits"].values())
    return {
        "pretty_name": name,
        "license": licences[0] if len(licences) == 1 else licences,
        "size_categories": [next((size for limit, size in SIZES if total < limit), "1M<n<10M")],
        "tags": ["music", "midi", "symbolic-music"],
        "configs": [
            {
                "config_name": configuration,
                "data_files": [{"split": split, "path": f"{configuration}/{split}-*.parquet"} for split in present],
                **({"default": True} if configuration == "tokenized" else {}),
            }
            for configuration in CONFIGURATIONS
        ],
    }


def table(header: str, rows: list[tuple]) -> list[str]:
    """A Markdown table; `header` names the columns, separated by `|`."""
    columns = header.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return ["", *("| " + " | ".join(map(str, line)) + " |" for line in lines), ""]


def write_card(
    path: Path, report: dict, sources: Sources, name: str = "Symbolic music corpus", left_out: Sources | None = None
) -> None:
    """Write the card.

    Args:
        report: what `report.json` of the corpus holds.
        sources: songs of the corpus by source and licence.
        left_out: songs that were prepared but are not in this folder.
    """
    text = ["---", yaml.safe_dump(card_metadata(report, sources, name), sort_keys=False).rstrip(), "---", ""]
    text += [f"# {name}", "", INTRODUCTION]
    text += [f"Vocabulary hash: `{report['vocab_hash']}`. Configuration: `{report['config_hash']}`.", ""]
    text += ["## Sources and licences", "", "Each song keeps the licence of its source, as the source states it."]
    text += table("source|licence|songs", [(*names, count) for names, count in sorted(sources.items())])
    if left_out:
        text += ["Not in this folder, because their licences do not allow it or say nothing that would:"]
        text += table("source|licence|songs left out", [(*names, count) for names, count in sorted(left_out.items())])
    text += ["## Splits"]
    groups = report["groups"]["groups per split"]
    splits = [
        (split, row["songs"], groups[split], row["bars"], row["notes"], row["tokens"])
        for split, row in report["splits"].items()
    ]
    text += table("split|songs|groups|bars|notes|tokens", splits)
    text += ["Songs that share a melody, bars, all notes up to transposition, or a Million Song Dataset track are one"]
    text += ["group and lie in one split.", "", "## Stages"]
    stages = []
    for row in report["stages"]:
        rejected = ", ".join(f"{reason} {count}" for reason, count in row["rejected"].items())
        stages.append((row["stage"], row["in"], row["out"], rejected))
    text += table("stage|in|out|rejected", stages)
    text += ["## Genres", "", "Songs per split; a genre with `*` is too rare for a condition token."]
    genres = []
    for genre, cells in report["genres"].items():
        mark = "" if genre in report["labels"]["genres"] or not genre else " *"
        genres.append(((genre or "(none)") + mark, *(cells[split][0] for split in SPLITS)))
    text += table("genre|" + "|".join(SPLITS), genres)
    text += ["## Settings", "", "```json", json.dumps(report["settings"], indent=1, sort_keys=True), "```", ""]
    path.write_text("\n".join(text), encoding="utf-8")

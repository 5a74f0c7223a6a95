r"""Counts how many songs of each genre use each program: `usual_programs.json`, from which families get their program.

    python -m partimento.pipelines.usual_programs build/corpus/tokenized/train-*.parquet \
      -o pipelines/usual_programs.json

needs pyarrow (the extra `train`).
"""

import argparse
import json
from collections import Counter
from pathlib import Path

__all__ = ["count_programs"]


def count_programs(files: list[Path]) -> dict[str, dict[str, int]]:
    """{genre in lower case, "" for all songs: {program, -1 = drums: songs}} of tokenised Parquet files."""
    import pyarrow.parquet as parquet

    counts: dict[str, Counter] = {"": Counter()}
    for file in files:
        for song in parquet.read_table(file, columns=["genre", "programs"]).to_pylist():
            for genre in {"", (song["genre"] or "").casefold()}:
                counts.setdefault(genre, Counter()).update(set(song["programs"]))
    return {
        genre: {str(program): songs for program, songs in sorted(counter.items())}
        for genre, counter in sorted(counts.items())
    }


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="tokenised Parquet files of the training songs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in count_programs(options.files).items())
    options.output.write_text(f'{{"songs": {{\n{rows}\n}}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()

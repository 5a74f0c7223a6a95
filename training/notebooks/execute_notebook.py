"""Runs the code cells of a notebook and writes what they print into it, without Jupyter.

    python training/notebooks/execute_notebook.py training/notebooks/from_corpus_to_hub.ipynb

Lines that begin with `!` go to the shell, the rest to Python; the value of a last expression is shown, a picture as a
picture. A cell that fails ends the run, and the file stays as it was. `jupyter lab` runs the same notebook.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from partimento.training.checkpointing import write_atomically


def as_terminal(text: str) -> str:
    """The text as a terminal shows it in the end: what comes before a carriage return is overwritten."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return "\n".join(line.rstrip("\r").split("\r")[-1] for line in text.split("\n"))


def run_shell(command: str) -> str:
    """Output and errors of a command, together; raises `CalledProcessError` with them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PATH": path}
    )
    text = as_terminal(done.stdout.decode(errors="replace"))  # as bytes: text mode would make lines of carriage returns
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, text)
    return text


def run_python(code: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What the code prints, and the value of its last expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    return printed.getvalue(), value


def shown(value: Any, count: int) -> dict:
    """The output that Jupyter makes of the value of a cell."""
    data = {"text/plain": repr(value)}
    if (picture := getattr(value, "_repr_png_", None)) is not None:
        # Where an object is in memory is no part of it.
        data = {"image/png": base64.b64encode(picture()).decode(), "text/plain": re.sub(r" at 0x\w+", "", repr(value))}
    return {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data}


def run_cell(source: str, names: dict[str, Any], count: int) -> list[dict]:
    """The outputs of a cell."""
    if source.startswith("!"):
        text, value = run_shell(source[1:]), None
    else:
        text, value = run_python(source, names)
    outputs: list[dict] = [{"output_type": "stream", "name": "stdout", "text": text}] if text else []
    return outputs if value is None else [*outputs, shown(value, count)]


def main() -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook.resolve()
    notebook = json.loads(path.read_text(encoding="utf-8"))
    os.chdir(path.parent)  # where Jupyter starts
    names: dict[str, Any] = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for count, cell in enumerate(cells, 1):
        started = time.perf_counter()
        print(f"[{count}/{len(cells)}] {''.join(cell['source']).splitlines()[0]}", flush=True)
        try:
            outputs = run_cell("".join(cell["source"]), names, count)
        except subprocess.CalledProcessError as error:
            print(f"{error}\n{error.output}", file=sys.stderr)
            return 1
        cell["execution_count"], cell["outputs"] = count, outputs
        print(f"    {time.perf_counter() - started:.0f} s", flush=True)
    write_atomically(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

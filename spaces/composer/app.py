"""Symbolic Composer: text to multi-track MIDI, bar by bar.

    partimento space composer        or        python spaces/composer/app.py

Environment: MODEL_ID selects a Hub model instead of the embedded checkpoint; SOUNDFONT a .sf2 file; ENABLE_MCP=1 serves
the endpoints as MCP tools; COMPARE_LSTM and COMPARE_MUSICVAE name models for the comparison.
"""

import contextlib
import ctypes
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if not os.environ.get("MODEL_ID"):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

from composer_components import Shelf
from composer_engine import load_composer
from composer_ui import build_composer, launch_options


def share_memory_arenas() -> None:
    """Lets glibc keep two pools of memory instead of eight per core: threads come and go here, and what one has freed
    the next shall find. Other C libraries have no such pools."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL("libc.so.6").mallopt(-8, 2)  # M_ARENA_MAX of malloc.h


def main() -> None:
    """Builds the page and serves it."""
    share_memory_arenas()
    composer, banner = load_composer(os.environ.get("MODEL_ID"))
    parameters = sum(parameter.numel() for parameter in composer.generator.model.parameters())
    shelf = Shelf()
    page = build_composer(composer, f"{banner}, {parameters / 1e6:.1f} million parameters.", shelf)
    page.launch(mcp_server=os.environ.get("ENABLE_MCP") == "1", **launch_options(shelf))


if __name__ == "__main__":
    main()

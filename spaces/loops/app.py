"""Symbolic Loops: walk through the latent space of a MusicVAE, with sliders, and keep what you find.

    partimento space loops        or        python spaces/loops/app.py

Environment: MODEL_ID names models of the Hub or folders, separated by commas, instead of the embedded checkpoints;
SOUNDFONT a .sf2 file; ENABLE_MCP=1 serves the endpoints as MCP tools.
"""

import os

from composer_serving import launch_options, prepare


def main() -> None:
    """Builds the page and serves it."""
    prepare()
    from composer_components import Shelf
    from loops_components import CSS
    from loops_models import open_shop
    from loops_ui import build_loops

    shelf = Shelf()
    page = build_loops(open_shop(os.environ.get("MODEL_ID")), shelf)
    page.launch(mcp_server=os.environ.get("ENABLE_MCP") == "1", **launch_options(shelf, CSS))


if __name__ == "__main__":
    main()

"""Symbolic Composer: text to multi-track MIDI, bar by bar.

    partimento space composer        or        python spaces/composer/app.py

Environment: MODEL_ID selects a Hub model instead of the embedded checkpoint; SOUNDFONT a .sf2 file; ENABLE_MCP=1 serves
the endpoints as MCP tools.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if not os.environ.get("MODEL_ID"):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

from composer_engine import load_composer
from composer_ui import CSS, build_composer


def main() -> None:
    """Builds the page and serves it."""
    composer, banner = load_composer(os.environ.get("MODEL_ID"))
    parameters = sum(parameter.numel() for parameter in composer.generator.model.parameters())
    page = build_composer(composer, f"{banner}, {parameters / 1e6:.1f} million parameters.")
    page.launch(
        ssr_mode=False,
        show_error=True,
        max_file_size="2mb",
        css=CSS,
        mcp_server=os.environ.get("ENABLE_MCP") == "1",
    )


if __name__ == "__main__":
    main()

"""Symbolic Composer: text to multi-track MIDI, bar by bar.

    partimento space composer        or        python spaces/composer/app.py

Environment: MODEL_ID selects a Hub model instead of the embedded checkpoint; SOUNDFONT a .sf2 file; ENABLE_MCP=1 serves
the endpoints as MCP tools; COMPARE_LSTM and COMPARE_MUSICVAE name models for the comparison.
"""

import os

from composer_serving import launch_options, prepare


def main() -> None:
    """Builds the page and serves it."""
    prepare()
    from composer_gpu import ZERO_GPU, borrow_gpu  # first: it changes torch on ZeroGPU

    # isort: split
    from composer_components import CSS, Shelf
    from composer_engine import load_composer
    from composer_ui import build_composer

    composer, banner = load_composer(os.environ.get("MODEL_ID"))
    parameters = sum(parameter.numel() for parameter in composer.generator.model.parameters())
    if ZERO_GPU:
        borrow_gpu(composer)
    shelf = Shelf()
    page = build_composer(composer, f"{banner}, {parameters / 1e6:.1f} million parameters.", shelf)
    page.launch(mcp_server=os.environ.get("ENABLE_MCP") == "1", **launch_options(shelf, CSS))


if __name__ == "__main__":
    main()

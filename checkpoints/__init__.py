"""Small trained models that travel inside the package, each in Hub layout with its model card."""

from pathlib import Path

__all__ = ["embedded_checkpoint", "list_embedded"]

_ROOT = Path(__file__).parent


def list_embedded() -> list[str]:
    """Names of the checkpoints that are installed with the package."""
    return sorted(folder.name for folder in _ROOT.iterdir() if (folder / "config.json").is_file())


def embedded_checkpoint(name: str) -> Path:
    """Folder of the embedded checkpoint `name`.

    Raises:
        ValueError: there is no embedded checkpoint of that name; the message lists those there are.
    """
    folder = _ROOT / name
    if name not in list_embedded():
        raise ValueError(f"no embedded checkpoint called {name!r}; embedded: {', '.join(list_embedded()) or 'none'}")
    return folder

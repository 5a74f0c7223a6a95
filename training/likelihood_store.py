"""Losses of a long evaluation on disk, so that an interrupted one goes on where it stopped."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partimento.training.checkpointing import write_atomically


def weights_fingerprint(model: torch.nn.Module) -> str:
    """First 16 digits of a SHA-256 over the names and values of all parameters and stored buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class LossStore:
    """A folder of finished parts. Each part is an .npz that appears complete or not at all: song number -> nats.

    Args:
        folder: made when it does not exist.
        identity: everything that the losses depend on; parts of another evaluation are never mixed in.
    Raises: ValueError: the folder holds parts of another evaluation.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]):
        self.folder = Path(folder)
        description = self.folder / "identity.json"
        wanted = json.loads(json.dumps(dict(identity)))
        if description.is_file():
            found = json.loads(description.read_text(encoding="utf-8"))
            if found != wanted:
                different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
                raise ValueError(
                    f"{self.folder}: an unfinished evaluation with another {', '.join(different)}; finish it with its "
                    "own command, remove the folder, or choose another output"
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(description, json.dumps(wanted, indent=1) + "\n")

    def load(self, name: str) -> dict[int, np.ndarray]:
        """Losses of all finished songs of one group, such as "test-all_conditions"."""
        losses: dict[int, np.ndarray] = {}
        for file in self._parts(name):
            with np.load(file) as part:
                losses.update({int(key): part[key] for key in part.files})
        return losses

    def add(self, name: str, losses: Mapping[int, np.ndarray]) -> None:
        """Write one more part of a group."""
        target = self.folder / f"{name}-{len(self._parts(name)):06d}.npz"
        temporary = target.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, **{str(song): nats for song, nats in losses.items()})
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def remove(self) -> None:
        """Delete everything: the report has been written."""
        shutil.rmtree(self.folder)

    def _parts(self, name: str) -> list[Path]:
        return sorted(self.folder.glob(f"{name}-*.npz"))

"""The states that truncated back-propagation hands from window to window, saved with every checkpoint."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from partimento.modeling.recurrent import RecurrentCache
from partimento.training.bptt_data import WindowBatch


class StateCarry:
    """One cache per micro-batch of an update; every process keeps those of its own lanes.

    Args:
        accelerator: its `save_state` and `load_state` will include the states.
        num_layers: layers of the model.
    """

    def __init__(self, accelerator: Accelerator, num_layers: int):
        self.accelerator, self.num_layers = accelerator, num_layers
        self.caches: dict[int, RecurrentCache] = {}
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    def inputs(self, batch: WindowBatch) -> dict[str, Any]:
        """Return what `forward` needs to go on where the last window of each lane ended."""
        if batch.slot not in self.caches:
            return {"use_cache": True}
        return {"use_cache": True, "past_key_values": self.caches[batch.slot].zero_rows_(batch.starts)}

    def keep(self, batch: WindowBatch, cache: RecurrentCache) -> None:
        """Store the states behind the window, cut from its graph."""
        self.caches[batch.slot] = cache.detach_()

    def _path(self, folder: str) -> Path:
        return Path(folder) / f"carried_states_{self.accelerator.process_index}.safetensors"

    def _save(self, models: Any, weights: Any, folder: str) -> None:
        tensors = {
            f"{slot}.{layer}.{part}": tensor.contiguous()
            for slot, cache in self.caches.items()
            for layer, state in enumerate(cache.states)
            for part, tensor in enumerate(state or ())
        }
        save_file(tensors, self._path(folder))

    def _load(self, models: Any, folder: str) -> None:
        self.caches, path = {}, self._path(folder)
        tensors = load_file(path, device=str(self.accelerator.device)) if path.is_file() else {}
        for slot in sorted({int(name.split(".")[0]) for name in tensors}):
            cache = RecurrentCache(self.num_layers)
            for number, layer in enumerate(cache.layers):
                parts: list[torch.Tensor] = []
                while (tensor := tensors.get(f"{slot}.{number}.{len(parts)}")) is not None:
                    parts.append(tensor)
                layer.update(tuple(parts), 0)
            self.caches[slot] = cache

"""The device that a user names, or the best there is."""

from __future__ import annotations

import torch

__all__ = ["usable_device"]


def usable_device(name: str | torch.device | None) -> torch.device:
    """`name` as a device; None: the first GPU when there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} is no device; choose cpu, cuda, or cuda:1 for the second GPU") from None
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ValueError(f"device={str(name)!r}: {found or 'no'} GPU(s) can be used here; choose cpu")
    return device

"""The device that an evaluation runs on."""

import torch


def choose_device(name: str | None) -> torch.device:
    """The named device; without a name the first GPU when there is one, else the CPU.

    Raises: ValueError: no such kind of device, or no GPU here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: no such device; give cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs that PyTorch can use")
    return device

"""How many CPU threads a small model gets."""

import contextlib
import os
from collections.abc import Iterator

import torch

__all__ = ["one_thread"]


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """One CPU thread for the time of a generation, unless OMP_NUM_THREADS says otherwise.

    A token is too little work to share, and on a busy machine the threads of OpenMP wait for each other: generation was
    ten to forty times slower with two threads than with one.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

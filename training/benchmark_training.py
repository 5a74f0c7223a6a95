"""Time and peak memory of a training step against length, each contestant in a process of its own."""

import math
import multiprocessing
import resource
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from partimento.training.benchmark_models import PEER, clock, full_attention_peer


def training_steps(contestant: str, config, song: list[int], lengths: Sequence[int], settings: dict[str, Any]) -> list:
    """Rows for ascending `lengths` of one contestant, a back-end or the peer; runs in a fresh process.

    Args:
        settings: `threads`, `repeats`, `device`, and the limits `gigabytes` and `seconds` of one step; a length that
            is expected to exceed them, judging by the one before, is not tried.
    """
    torch.set_num_threads(settings["threads"])
    device = torch.device(settings["device"])
    if contestant == PEER:
        model = full_attention_peer(config)
    else:
        from partimento.modeling import MuseformerForCausalLM

        torch.manual_seed(0)
        model = MuseformerForCausalLM(config)
        model.set_attn_implementation(contestant)
    model.to(device).train()
    step(model, song[:256], device)  # gradients exist, kernels are loaded
    rows, before = [], memory(device)
    for length in lengths:
        if rows and (reason := too_much(rows[-1], length, settings)):
            rows.append({"contestant": contestant, "tokens": length, "skipped": reason})
            continue
        times, peak = [], 0
        for _ in range(settings["repeats"]):
            with PeakMemory(device) as used:
                started = clock(device)
                step(model, song[:length], device)
                times.append(clock(device) - started)
            peak = max(peak, used.bytes - before)
        rows.append(
            {"contestant": contestant, "tokens": length, "seconds": round(min(times), 3), "megabytes": peak // 2**20}
        )
    return rows


def step(model, ids: list[int], device) -> None:
    """Forward and backward in bfloat16 autocast, batch 1; the optimiser, which knows no length, is left out."""
    row = torch.tensor([ids], device=device)
    with torch.autocast(device.type, torch.bfloat16):
        loss = model(row, labels=row, use_cache=False).loss
    loss.backward()
    model.zero_grad(set_to_none=False)


def too_much(last: dict, length: int, settings: dict) -> str | None:
    """Why `length` is not tried, from the figures of the last length."""
    if "skipped" in last:
        return last["skipped"]
    longer = length / last["tokens"]
    linear = last["contestant"] == "bar_gather"
    megabytes = last["megabytes"] * longer ** (1.2 if linear or last["contestant"] == PEER else 2)
    seconds = last["seconds"] * longer ** (1.2 if linear else 2)
    if megabytes > 1024 * settings["gigabytes"]:
        return f"over {settings['gigabytes']} GB"
    return f"over {settings['seconds']} s" if seconds > settings["seconds"] else None


def memory(device) -> int:
    """Bytes in use now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    for line in status_lines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def status_lines() -> list[str]:
    path = Path("/proc/self/status")
    return path.read_text().splitlines() if path.is_file() else []


class PeakMemory:
    """Context manager: the largest number of `bytes` in use inside; sampled every 20 ms on a CPU."""

    def __init__(self, device):
        self.device, self.bytes, self._done = device, 0, threading.Event()

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def _sample(self):
        while not self._done.is_set():
            self.bytes = max(self.bytes, memory(self.device))
            time.sleep(0.02)

    def __exit__(self, *error):
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated()
        else:
            self._done.set()
            self._thread.join()


def training_speed(contestants: Sequence[str], config, song: list[int], lengths: Sequence[int], settings: dict) -> list:
    """Rows of all contestants; one that cannot run (or whose process dies) says why."""
    rows = []
    for contestant in tqdm(contestants, desc="training", unit="contestant"):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                rows += pool.submit(training_steps, contestant, config, song, lengths, settings).result()
            except (BrokenProcessPool, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0][:120]
                rows += [{"contestant": contestant, "tokens": length, "skipped": reason} for length in lengths]
    return rows


def growth(rows: list[dict], contestant: str, key: str, low: int, high: int) -> float | None:
    """Exponent of `key` between two lengths: 1 is linear, 2 quadratic."""
    found = {row["tokens"]: row[key] for row in rows if row["contestant"] == contestant and key in row}
    if not found.get(low) or not found.get(high):
        return None
    return round(math.log(found[high] / found[low]) / math.log(high / low), 2)

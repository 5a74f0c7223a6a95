"""Many clients at a Space at once: no job may be lost, and the memory of the server stays flat.

    python tests/spaces/soak.py --minutes 2 --clients 8
    python tests/spaces/soak.py --space loops --minutes 30

Each client does in random order what the Space offers, as a program (the named endpoints) and as a page, leaves in the
middle of long work, and sends damaged files and wrong settings. A job is lost when it neither comes back nor is refused
in a sentence; an error that is not one of the Space's own sentences counts as foreign. Exits with 1 on a lost job, a
foreign error, or memory that grew by more than `--growth` between the end of the warm-up (the first fifth of the time)
and the end: each is the median of a tenth of the time.
"""

from __future__ import annotations

import argparse
import collections
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from soak_visitors import LONGEST, VISITORS, Visitor


def start(space: str, folder: Path) -> tuple[subprocess.Popen, str]:
    """The Space as a process of its own, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "gradio"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "partimento.pipelines.cli", "space", space, "--port", str(port)]
    log_file = folder / "log"
    with log_file.open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    for _ in range(600):
        if "To create a public link" in log_file.read_text():
            return server, f"http://127.0.0.1:{port}/"
        if server.poll() is not None:
            sys.exit(log_file.read_text())
        time.sleep(0.5)
    server.terminate()
    sys.exit("the Space did not start within five minutes")


def resident(process: int) -> float:
    """Memory of a process in MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    """Runs the clients and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=[*VISITORS, "both"], default="both", help="both: one after the other")
    parser.add_argument("--minutes", type=float, default=2, help="for each Space (default 2)")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--growth", type=float, default=0.05, help="share of memory that may be added (default 0.05)")
    options = parser.parse_args()
    spaces = list(VISITORS) if options.space == "both" else [options.space]
    return max([run(space, options) for space in spaces])


def run(space: str, options: argparse.Namespace) -> int:
    """0 where one Space stood it."""
    with tempfile.TemporaryDirectory() as folder:
        server, url = start(space, Path(folder))
        try:
            status = soak(space, url, server.pid, options)
            left = sum(path.is_file() for path in (Path(folder) / "gradio").rglob("*"))
            print(f"  files     {left} left in the folder of uploads")
        finally:
            server.terminate()
            server.wait(timeout=30)
        log = (Path(folder) / "log").read_text()
        if "Traceback" in log:
            print("tracebacks in the log of the server:\n", log[-3000:])
            status = 1
    return status


def soak(space: str, url: str, process: int, options: argparse.Namespace) -> int:
    """0 where nothing was lost and memory stayed flat."""
    begun = time.monotonic()
    end = begun + 60 * options.minutes
    visitors: list[Visitor] = [VISITORS[space](url, number, end) for number in range(options.clients)]
    for visitor in visitors:
        visitor.start()
    readings: list[tuple[float, float]] = []
    while any(visitor.is_alive() for visitor in visitors) and time.monotonic() < end + LONGEST:
        time.sleep(min(2, options.minutes))
        readings.append((time.monotonic(), resident(process)))
    lost = [item for visitor in visitors for item in visitor.lost]
    for number, visitor in enumerate(visitors):
        if visitor.is_alive():
            stack = traceback.format_stack(sys._current_frames()[visitor.ident or 0])
            lost.append(f"client {number} hangs in {visitor.job}:\n{''.join(stack[-6:])}")
    foreign = [item for visitor in visitors for item in visitor.foreign]
    done, refused = (sum((getattr(v, name) for v in visitors), collections.Counter()) for name in ("done", "refused"))
    print(
        f"{space}: {options.clients} clients, {time.monotonic() - begun:.0f} s: {sum(done.values())} jobs done, ",
        end="",
    )
    print(f"  {sum(refused.values())} refused in a sentence, {len(lost)} lost, {len(foreign)} foreign errors")
    print("  done     ", dict(done.most_common()))
    print("  refused  ", dict(refused.most_common()))
    first, last = growth([(moment, memory) for moment, memory in readings if moment <= end])
    tenths = (f"{readings[len(readings) * tenth // 10][1]:.0f}" for tenth in range(10))
    print("  memory    MB every tenth of the time:", *tenths)
    print(
        f"            {first:.0f} MB after the warm-up, {last:.0f} MB at the end: {last / first - 1:+.1%}", flush=True
    )
    for item in [*lost, *foreign][:20]:
        print("  !", item)
    return int(bool(lost or foreign) or last > first * (1 + options.growth))


def growth(readings: list[tuple[float, float]]) -> tuple[float, float]:
    """Memory after the warm-up and at the end: medians of the third and the last tenth of the readings."""
    tenth = max(len(readings) // 10, 1)
    after, before_end = readings[2 * tenth : 3 * tenth] or readings, readings[-tenth:]
    return statistics.median(memory for _, memory in after), statistics.median(memory for _, memory in before_end)


if __name__ == "__main__":
    sys.exit(main())

"""Many clients at a Space at once: no job may be lost, and the memory of the server stays flat.

    python tests/spaces/soak.py --minutes 2 --clients 8
    python tests/spaces/soak.py --space loops --minutes 30

Each client does in random order what the Space offers, as a program (the named endpoints) and as a page, leaves in the
middle of long work, and sends damaged files and wrong settings. A job is lost when it neither comes back nor is refused
in a sentence; an error that is not one of the Space's own sentences counts as foreign. Exits with 1 on a lost job, a
foreign error, or memory that grew by more than `--growth`.

Before the time begins there is a warm-up, which fills what is filled once: as many visitors make something as the
server keeps pages of, and every kind of job is done twice at its largest, so that libraries are imported, models loaded
and pools of memory as large as they get. What is compared then are the medians of the first and of the last fifth of
the time.
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

KEPT_VISITORS = 64  # composer_serving.MOST_VISITORS
WARM_UP_SECONDS = 600


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
    arrived = time.monotonic()
    kinds = list(dict.fromkeys(VISITORS[space].choices))
    warm_up = collections.deque([*2 * kinds, *KEPT_VISITORS * ["look_in"]])
    visitors: list[Visitor] = [VISITORS[space](url, number, warm_up) for number in range(options.clients)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.warm.wait(max(arrived + WARM_UP_SECONDS - time.monotonic(), 0))
    begun = time.monotonic()
    end = begun + 60 * options.minutes
    for visitor in visitors:
        visitor.begin(end)
    readings: list[tuple[float, float]] = []
    while any(visitor.is_alive() for visitor in visitors) and time.monotonic() < end + LONGEST:
        time.sleep(min(1, options.minutes))
        readings.append((time.monotonic(), resident(process)))
    lost = [item for visitor in visitors for item in visitor.lost]
    for number, visitor in enumerate(visitors):
        if visitor.is_alive():
            stack = traceback.format_stack(sys._current_frames()[visitor.ident or 0])
            lost.append(f"client {number} hangs in {visitor.job}:\n{''.join(stack[-6:])}")
    foreign = [item for visitor in visitors for item in visitor.foreign]
    done, refused = (sum((getattr(v, name) for v in visitors), collections.Counter()) for name in ("done", "refused"))
    print(
        f"{space}: {options.clients} clients, {begun - arrived:.0f} s of warm-up, {time.monotonic() - begun:.0f} s: "
        f"{sum(done.values())} jobs done, {sum(refused.values())} refused in a sentence, {len(lost)} lost, "
        f"{len(foreign)} foreign errors"
    )
    print("  done     ", dict(done.most_common()))
    print("  refused  ", dict(refused.most_common()))
    memory = [reading for moment, reading in readings if moment <= end]
    first, last = growth(memory)
    tenths = (f"{statistics.median(part):.0f}" for part in split(memory, 10))
    print("  memory    MB, median of every tenth of the time:", *tenths)
    print(f"            {first:.0f} MB in the first fifth, {last:.0f} MB in the last: {last / first - 1:+.1%}")
    for item in [*lost, *foreign][:20]:
        print("  !", item)
    sys.stdout.flush()
    return int(bool(lost or foreign) or last > first * (1 + options.growth))


def split(readings: list[float], parts: int) -> list[list[float]]:
    """Readings in so many parts of equal length, those that have any."""
    size = len(readings)
    cut = [readings[size * part // parts : size * (part + 1) // parts] for part in range(parts)]
    return [part for part in cut if part]


def growth(readings: list[float]) -> tuple[float, float]:
    """The medians of the first and of the last fifth of the time."""
    fifths = split(readings, 5)
    return statistics.median(fifths[0]), statistics.median(fifths[-1])


if __name__ == "__main__":
    sys.exit(main())

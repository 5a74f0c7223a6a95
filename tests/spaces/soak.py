"""Many clients at the composer Space at once: no job may be lost, and the memory of the server stays flat.

    python tests/spaces/soak.py --minutes 2 --clients 8

Each client reads prompts, generates, continues, rewrites, exports, renders, and sends damaged files and wrong settings,
in random order. A job is lost when it neither comes back nor is refused in a sentence; an error that is not one of the
Space's own sentences counts as foreign. Exits with 1 on a lost job, a foreign error, or memory that grew by more than
`--growth` between the end of the warm-up (the first fifth of the time) and the end.
"""

from __future__ import annotations

import argparse
import base64
import collections
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from gradio_client import Client
from gradio_client.exceptions import AppError

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("slow jazz trio", "tango en re menor, sin batería", "no drums, piano, fast", "purple rain with strings", "")
FOREIGN = ("Traceback", "Error", "/home", "/tmp", str(ROOT), "site-packages")
LONGEST = 300.0  # seconds after which a job counts as lost


def start(folder: Path) -> tuple[subprocess.Popen, str]:
    """The Space as a process of its own, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "gradio"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "partimento.pipelines.cli", "space", "composer", "--port", str(port)]
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


class Visitor(threading.Thread):
    """One client that goes on until `until`."""

    def __init__(self, url: str, number: int, until: float):
        super().__init__(daemon=True)
        self.url, self.chance, self.until = url, random.Random(number), until
        self.done: collections.Counter[str] = collections.Counter()
        self.refused: collections.Counter[str] = collections.Counter()
        self.foreign: list[str] = []
        self.lost: list[str] = []
        self.midi = ""
        self.job = "connecting"

    def run(self) -> None:
        client = Client(self.url, verbose=False)
        while time.monotonic() < self.until:
            name = self.chance.choice(("generate", "generate", "leave", "parse", "proceed", "rewrite", "render", "xml",
                                       "damaged", "wrong"))  # fmt: skip
            begun, self.job = time.monotonic(), name
            try:
                getattr(self, name)(client)
                self.done[name] += 1
            except AppError as error:
                text = str(error)
                self.refused[name] += 1
                if any(word in text for word in FOREIGN) or not text.strip():
                    self.foreign.append(f"{name}: {text}")
            except Exception as error:  # whatever else happens to a client is a lost job
                if "Queue is full" in str(error):
                    self.refused[f"{name} (queue full)"] += 1
                    time.sleep(1)
                else:
                    self.lost.append(f"{name}: {type(error).__name__}: {error}"[:300])
            if time.monotonic() - begun > LONGEST:
                self.lost.append(f"{name}: took {time.monotonic() - begun:.0f} s")

    def generate(self, client: Client) -> None:
        settings = {"bars": self.chance.randint(1, 3), "seed": self.chance.randrange(1000)}
        last = list(client.submit(self.chance.choice(PROMPTS), settings, api_name="/generate"))[-1]
        assert last["state"] in ("done", "stopped")
        self.midi = next(iter(last["files"].values()))
        assert base64.b64decode(self.midi)[:4] == b"MThd"

    def leave(self, client: Client) -> None:
        """Goes away in the middle of a long piece."""
        job = client.submit("piano", {"bars": 64}, api_name="/generate")
        time.sleep(self.chance.uniform(0.1, 2))
        job.cancel()

    def parse(self, client: Client) -> None:
        client.predict(self.chance.choice(PROMPTS), api_name="/parse_prompt")

    def need(self, client: Client) -> str:
        if not self.midi:
            self.generate(client)
        return self.midi

    def proceed(self, client: Client) -> None:
        list(client.submit(self.need(client), {"bars": 1}, api_name="/continue_midi"))

    def rewrite(self, client: Client) -> None:
        list(client.submit(self.need(client), 1, 1, {"seed": 1}, api_name="/regenerate_bars"))

    def render(self, client: Client) -> None:
        assert client.predict(self.need(client), api_name="/render_audio")["wav"]

    def xml(self, client: Client) -> None:
        assert "score-partwise" in client.predict(self.need(client), "soak", api_name="/export_musicxml")["musicxml"]

    def damaged(self, client: Client) -> None:
        data = bytearray(base64.b64decode(self.need(client)))
        for _ in range(self.chance.choice((1, 10, 100))):
            data[self.chance.randrange(len(data))] = self.chance.randrange(256)
        data = data[: self.chance.randrange(1, len(data))]
        list(client.submit(base64.b64encode(data).decode(), {"bars": 1}, api_name="/continue_midi"))

    def wrong(self, client: Client) -> None:
        settings = self.chance.choice(({"bars": 900}, {"colour": 1}, {"key": "H-moll"}, {"seed": []}, {"top_p": 7}))
        client.predict("piano", settings, api_name="/generate")


def main() -> int:
    """Runs the clients and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--growth", type=float, default=0.05, help="share of memory that may be added (default 0.05)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, url = start(Path(folder))
        try:
            status = soak(url, server.pid, options)
        finally:
            server.terminate()
            server.wait(timeout=30)
        log = (Path(folder) / "log").read_text()
        if "Traceback" in log:
            print("tracebacks in the log of the server:\n", log[-3000:])
            status = 1
    return status


def soak(url: str, process: int, options: argparse.Namespace) -> int:
    """0 where nothing was lost and memory stayed flat."""
    begun = time.monotonic()
    end, warm = begun + 60 * options.minutes, begun + 12 * options.minutes
    visitors = [Visitor(url, number, end) for number in range(options.clients)]
    for visitor in visitors:
        visitor.start()
    readings: list[tuple[float, float]] = []
    while any(visitor.is_alive() for visitor in visitors) and time.monotonic() < end + LONGEST:
        time.sleep(2)
        readings.append((time.monotonic(), resident(process)))
    lost = [item for visitor in visitors for item in visitor.lost]
    for number, visitor in enumerate(visitors):
        if visitor.is_alive():
            stack = traceback.format_stack(sys._current_frames()[visitor.ident or 0])
            lost.append(f"client {number} hangs in {visitor.job}:\n{''.join(stack[-6:])}")
    foreign = [item for visitor in visitors for item in visitor.foreign]
    done, refused = (sum((getattr(v, name) for v in visitors), collections.Counter()) for name in ("done", "refused"))
    settled = [memory for moment, memory in readings if moment > warm]
    width = max(len(settled) // 5, 1)
    first, last = statistics.median(settled[:width]), statistics.median(settled[-width:])
    print(f"{options.clients} clients, {time.monotonic() - begun:.0f} s: {sum(done.values())} jobs done, ", end="")
    print(f"{sum(refused.values())} refused in a sentence, {len(lost)} lost, {len(foreign)} foreign errors")
    print("  done     ", dict(done.most_common()))
    print("  refused  ", dict(refused.most_common()))
    print(
        "  memory    MB every tenth of the time:", *(f"{readings[len(readings) * i // 10][1]:.0f}" for i in range(10))
    )
    print(f"            {first:.0f} MB after the warm-up, {last:.0f} MB at the end: {last / first - 1:+.1%}")
    for item in [*lost, *foreign][:20]:
        print("  !", item)
    return int(bool(lost or foreign) or last > first * (1 + options.growth))


if __name__ == "__main__":
    sys.exit(main())

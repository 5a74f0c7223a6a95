"""The clients of the soak test: what they ask of each Space, and how they wait for the answer."""

from __future__ import annotations

import base64
import collections
import contextlib
import json
import random
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, ClassVar

import httpx
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.exceptions import AppError
from symusic import Note, Score, Track

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("slow jazz trio", "tango en re menor, sin batería", "no drums, piano, fast", "purple rain with strings", "")
FOREIGN = ("Traceback", "Error", "/home", "/tmp", str(ROOT), "site-packages", "Something went wrong")
LONGEST = 300.0  # seconds after which a job counts as lost
BUSY = ("Queue is full", "people are waiting")


def connect(url: str) -> Client:
    """A client as patient as we are; by itself it gives up a request after five seconds, too few on a busy machine."""
    return Client(url, verbose=False, httpx_kwargs={"timeout": LONGEST})


class Largest(random.Random):
    """Draws the largest number instead of a random one; choices stay random."""

    def randint(self, low: int, high: int) -> int:
        return high

    def uniform(self, low: float, high: float) -> float:
        return high


class Visitor(threading.Thread):
    """One client. First it takes jobs of `warm_up`, at their largest, as long as there are any; then it waits until
    `begin` is called, and from then on it takes those of `choices` in random order."""

    choices: ClassVar[tuple[str, ...]] = ()

    def __init__(self, url: str, number: int, warm_up: collections.deque[str]):
        super().__init__(daemon=True)
        self.url, self.number, self.warm_up = url, number, warm_up
        self.chance: random.Random = Largest(number)
        self.warm, self.begun = threading.Event(), threading.Event()
        self.until = 0.0
        self.done: collections.Counter[str] = collections.Counter()
        self.refused: collections.Counter[str] = collections.Counter()
        self.foreign: list[str] = []
        self.lost: list[str] = []
        self.job = "connecting"
        self.client: Any = None

    def begin(self, until: float) -> None:
        """Ends the waiting after the warm-up; the visitor goes on until this moment."""
        self.until = until
        self.begun.set()

    def run(self) -> None:
        self.client = connect(self.url)
        with contextlib.suppress(IndexError):
            while True:
                self.take(self.warm_up.popleft())
        self.job = "waiting"
        self.warm.set()
        self.begun.wait()
        self.chance = random.Random(self.number)
        self.done, self.refused = collections.Counter(), collections.Counter()
        while time.monotonic() < self.until:
            self.take(self.chance.choice(self.choices))
        self.job = "leaving"
        self.client.close()

    def take(self, name: str) -> None:
        """Does one job and notes what came of it."""
        begun, self.job = time.monotonic(), name
        try:
            getattr(self, name)()
            self.done[name] += 1
        except AppError as error:
            text = str(error)
            self.refused[name] += 1
            if any(word in text for word in FOREIGN) or not text.strip():
                self.foreign.append(f"{name}: {text}")
        except (Exception, CancelledError) as error:  # whatever else happens to a client is a lost job
            if any(words in str(error) for words in BUSY):
                self.refused[f"{name} (queue full)"] += 1
                time.sleep(1)
            else:
                after = time.monotonic() - begun
                self.lost.append(f"{name} after {after:.0f} s: {type(error).__name__}: {error}"[:300])

    def look_in(self) -> None:
        """A visitor who makes something and goes: the server keeps what the page shows."""
        raise NotImplementedError

    def ask(self, *arguments: Any, api_name: str) -> list[Any]:
        """Every value of a job.

        Two traps of the client are avoided. The iterator of a job waits for ever where the job was refused before it
        began (a full queue), so its result is waited for instead, with a limit. And a job that is sent between the end
        of the last one and the end of its stream would listen to the stream that closes: the stream is waited for.
        """
        patience = time.monotonic() + 30
        while self.client.stream_open and time.monotonic() < patience:
            time.sleep(0.002)
        job = self.client.submit(*arguments, api_name=api_name)
        try:
            last = job.result(timeout=LONGEST)
        except TimeoutError:
            job.cancel()
            raise
        return job.outputs() or [last]

    def one(self, *arguments: Any, api_name: str) -> Any:
        return self.ask(*arguments, api_name=api_name)[-1]

    def leave_after(self, *arguments: Any, api_name: str) -> None:
        """A visitor who comes, asks, and goes away while the work is being done: by cancelling, or without a word."""
        if self.chance.random() < 0.5:
            with Page(self.url) as page:
                page.vanish(list(arguments), api_name, self.chance.uniform(0.1, 2))
            return
        guest = connect(self.url)
        try:
            job: Job = guest.submit(*arguments, api_name=api_name)
            patience = time.monotonic() + LONGEST
            while job.communicator and not job.communicator.event_id and not job.done():
                if time.monotonic() > patience:
                    raise TimeoutError
                time.sleep(0.01)
            time.sleep(self.chance.uniform(0.1, 2))
            if job.communicator and job.communicator.event_id:
                job.cancel()
        finally:
            guest.close()


class ComposerVisitor(Visitor):
    """Reads prompts, generates, continues, rewrites, exports, renders, sends damaged files and wrong settings."""

    choices = ("generate", "generate", "leave", "parse", "proceed", "rewrite", "render", "xml", "damaged", "wrong",
               "page")  # fmt: skip
    midi = ""

    def generate(self) -> None:
        settings = {"bars": self.chance.randint(1, 3), "seed": self.chance.randrange(1000)}
        last = self.one(self.chance.choice(PROMPTS), settings, api_name="/generate")
        assert last["state"] in ("done", "stopped")
        self.midi = next(iter(last["files"].values()))
        assert base64.b64decode(self.midi)[:4] == b"MThd"

    def leave(self) -> None:
        self.leave_after("piano", {"bars": 64}, api_name="/generate")

    def parse(self) -> None:
        self.one(self.chance.choice(PROMPTS), api_name="/parse_prompt")

    def need(self) -> str:
        if not self.midi:
            self.generate()
        return self.midi

    def proceed(self) -> None:
        assert self.one(self.need(), {"bars": 1}, api_name="/continue_midi")["state"] == "done"

    def rewrite(self) -> None:
        assert self.one(self.need(), 1, 1, {"seed": 1}, api_name="/regenerate_bars")["state"] == "done"

    def render(self) -> None:
        assert self.one(self.need(), api_name="/render_audio")["wav"]

    def xml(self) -> None:
        assert "score-partwise" in self.one(self.need(), "soak", api_name="/export_musicxml")["musicxml"]

    def damaged(self) -> None:
        data = bytearray(base64.b64decode(self.need()))
        for _ in range(self.chance.choice((1, 10, 100))):
            data[self.chance.randrange(len(data))] = self.chance.randrange(256)
        data = data[: self.chance.randrange(1, len(data))]
        self.ask(base64.b64encode(data).decode(), {"bars": 1}, api_name="/continue_midi")

    def wrong(self) -> None:
        settings = self.chance.choice(({"bars": 900}, {"colour": 1}, {"key": "H-moll"}, {"seed": []}, {"top_p": 7}))
        self.one("piano", settings, api_name="/generate")

    def look_in(self) -> None:
        with Page(self.url) as page:
            page.press("generate", prompt="piano", bars=4, num_outputs=1)

    def page(self) -> None:
        """The page itself: a piece of four bars, twice, and undo."""
        with Page(self.url) as page:
            for _ in range(2):
                page.press("generate", prompt="piano", bars=4, num_outputs=1)
            page.press("undo")
            assert str(page.shown["status"]).startswith("Version 1."), page.shown["status"]


class LoopsVisitor(Visitor):
    """Reads files, draws, walks, turns sliders, varies, exports, sends damaged files and wrong points."""

    choices = ("load", "sample", "slider", "interpolate", "vary", "attribute", "export", "damaged", "wrong", "leave",
               "page")  # fmt: skip
    models: ClassVar[list[dict[str, Any]]] = []
    point: tuple[str, list[float]] | None = None

    def facts(self) -> dict[str, Any]:
        """One of the models."""
        if not self.models:
            self.models.extend(self.one(api_name="/describe")["models"])
        return self.chance.choice(self.models)

    def need(self) -> tuple[str, list[float]]:
        """(model, a point of it)"""
        if self.point is None:
            self.sample()
        assert self.point
        return self.point

    def keep(self, model: str, loops: list[dict[str, Any]], count: int) -> None:
        assert len(loops) == count
        for loop in loops:
            assert Score.from_midi(base64.b64decode(loop["midi"])).note_num() == loop["num_notes"]
        self.point = model, self.chance.choice(loops)["z"]

    def load(self) -> None:
        model = self.facts()
        found = self.one(tune(self.chance, model["bars"]), {"model": model["name"]}, api_name="/encode")
        self.point = model["name"], found["z"]

    def sample(self) -> None:
        model, count = self.facts()["name"], self.chance.randint(1, 8)
        self.keep(model, self.one(count, {"model": model}, api_name="/sample"), count)

    def slider(self) -> None:
        """A drag over one dimension."""
        model, z = self.need()
        dim = self.chance.randrange(len(z))
        for step in range(10):
            z = [*z[:dim], -2 + 0.4 * step, *z[dim + 1 :]]
            loops = self.one(z, {"model": model}, api_name="/decode")
            assert loops[0]["z"][dim] == float(f"{z[dim]:.9g}") or abs(loops[0]["z"][dim] - z[dim]) < 1e-6
        self.keep(model, loops, 1)

    def interpolate(self) -> None:
        model, z = self.need()
        other = self.one(1, {"model": model}, api_name="/sample")[0]["z"]
        count = self.chance.randint(2, 16)
        how = self.chance.choice(("linear", "slerp"))
        self.keep(model, self.one(z, other, count, how, {"model": model}, api_name="/interpolate"), count)

    def vary(self) -> None:
        model, z = self.need()
        self.keep(model, self.one(z, 6, 0.8, {"model": model}, api_name="/similar"), 6)

    def attribute(self) -> None:
        model = next((model for model in [self.facts(), *self.models] if model["attributes"]), None)
        if model is None:
            return
        name, z = self.chance.choice(model["attributes"]), [0.0] * model["z_size"]
        self.keep(model["name"], self.one(z, {name: 1.0}, {"model": model["name"]}, api_name="/attribute"), 1)

    def export(self) -> None:
        model, z = self.need()
        points = [[value * share / 8 for value in z] for share in range(8)]
        settings = {"model": model, "temperature": 0.5, "tempo": 90}
        self.keep(model, self.one(points, settings, api_name="/decode"), 8)

    def damaged(self) -> None:
        data = bytearray(base64.b64decode(tune(self.chance, 2)))
        for _ in range(self.chance.choice((1, 10, 100))):
            data[self.chance.randrange(len(data))] = self.chance.randrange(256)
        self.one(base64.b64encode(data[: self.chance.randrange(1, len(data))]).decode(), {}, api_name="/encode")

    def wrong(self) -> None:
        z = self.chance.choice(([0.0] * 3, ["x"] * 8, [], [1e300] * 256, None, "z"))
        self.one(z, {}, api_name="/decode")

    def leave(self) -> None:
        self.leave_after(16, {}, api_name="/sample")

    def look_in(self) -> None:
        with Page(self.url) as page:
            page.press("add")
            page.press("draw", many="4")

    def page(self) -> None:
        """The page itself: sliders, the saved list, a path, and the file."""
        with Page(self.url) as page:
            page.press("add")
            for step in range(5):
                moves = {"moves": {"d0": step / 4}, "request_id": step + 1, "gesture": "1"}
                page.press("sliders", "input", moves)
            page.press("interpolate", steps="4")
            page.press("draw", many="4")
            page.press("similar", many="4")
            assert len(json.loads(page.shown["saved"])["items"]) == 13
            page.press("undo")
            page.press("save_all", name="soak")
            assert "soak.mid" in page.shown["downloads"]


def tune(chance: random.Random, bars: int) -> str:
    """Melody, bass and drums of eighths in base64."""
    score = Score(480)
    for program, low, is_drum in ((73, 60, False), (33, 36, False), (0, 36, True)):
        track = Track(program=program, is_drum=is_drum)
        for eighth in range(8 * bars):
            if chance.random() < 0.7:
                track.notes.append(Note(240 * eighth, 240, low + chance.randrange(12), 80))
        track.notes.append(Note(0, 240, low, 80))
        score.tracks.append(track)
    return base64.b64encode(score.dumps_midi()).decode()


class Page:
    """A page as the browser has it: a session, the values of its components, and listeners found by element."""

    def __init__(self, url: str):
        self.http = httpx.Client(base_url=url, timeout=LONGEST)
        self.session = f"{random.getrandbits(64):x}"

    def __enter__(self) -> Page:
        with contextlib.ExitStack() as undo:
            undo.callback(self.http.close)
            assert self.http.get("/").status_code == 200
            config = self.http.get("/config").json()
            self.listeners = config["dependencies"]
            parts = config["components"]
            self.values: dict[int, Any] = {part["id"]: part["props"].get("value") for part in parts}
            self.states = {part["id"] for part in parts if part["type"] == "state"}
            self.names: dict[str, int] = {p["props"]["elem_id"]: p["id"] for p in parts if p["props"].get("elem_id")}
            for listener in self.listeners:
                if any(event == "load" for _, event in listener["targets"]) and listener["backend_fn"]:
                    self._send(listener)
            undo.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.close()

    @property
    def shown(self) -> collections.abc.Mapping[str, Any]:
        """Values by the name of the element."""
        return {name: self.values[number] for name, number in self.names.items()}

    def press(self, name: str, event: str = "click", detail: Any = None, /, **entries: Any) -> None:
        """Fills fields in, and does what a click does."""
        for field, value in entries.items():
            self.values[self.names[field]] = value
        target = [self.names[name], event]
        listener = next(found for found in self.listeners if target in found["targets"] and found["backend_fn"])
        self._send(listener, detail)

    def vanish(self, data: list[Any], api_name: str, after: float) -> None:
        """Begins a job of a named endpoint and breaks the connection."""
        number = next(listener["id"] for listener in self.listeners if f"/{listener['api_name']}" == api_name)
        begun, body = time.monotonic(), {"data": data, "fn_index": number, "session_hash": self.session}
        self._join(body)
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for _ in stream.iter_lines():
                if time.monotonic() - begun > after:
                    return

    def _join(self, body: dict[str, Any]) -> None:
        joined = self.http.post("/gradio_api/queue/join", json=body)
        if joined.status_code in (429, 503):
            raise RuntimeError(str(joined.json()["detail"]))
        joined.raise_for_status()

    def _send(self, listener: dict[str, Any], detail: Any = None) -> None:
        data = [None if number in self.states else self.values[number] for number in listener["inputs"]]
        body = {"data": data, "fn_index": listener["id"], "session_hash": self.session, "event_data": detail}
        if listener["queue"] is False:
            answer = self.http.post("/gradio_api/run/predict", json=body)
            answer.raise_for_status()
            self._take(listener, answer.json()["data"])
            return
        self._join(body)
        last: list[Any] = []
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message: dict[str, Any] = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise AppError(message=str(message["output"].get("error")))
                    last = message["output"]["data"]
                elif message["msg"] == "close_stream":
                    break
        self._take(listener, last)

    def _take(self, listener: dict[str, Any], data: list[Any]) -> None:
        for number, value in zip(listener["outputs"], data):
            if isinstance(value, dict) and value.get("__type__") == "update":
                value = value.get("value", self.values[number])
            self.values[number] = value


VISITORS = {"composer": ComposerVisitor, "loops": LoopsVisitor}

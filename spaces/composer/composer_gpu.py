"""Writing on ZeroGPU, which lends a GPU for the time of one call; elsewhere nothing here is used.

The package `spaces` runs a decorated function in a process of its own, forked from this one when the GPU is there;
arguments and what the generator yields are pickled. So a call takes a `Job` and yields tuples: tokens of finished bars,
signs of life, at the end the pieces. One flag that was shared before the fork stops the model within a token. None of
this has run on a GPU: the tests fork on a CPU.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

try:
    from spaces import GPU  # before torch
except ImportError:  # not on Hugging Face

    def GPU(task: Callable | None = None, *, duration: Any = None) -> Callable:  # noqa: N802 - its name there
        """Stands in for the decorator of ZeroGPU, as `@GPU` and as `@GPU(duration=...)`: changes nothing."""
        return task if task is not None else lambda function: function


from composer_engine import POLL, Composer, Job, NoGpuError, RequestError, sentence_for

from partimento.pipelines import GeneratedMidi, MidiGenerator

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
DEVICE = "cuda"
STARTING, PER_BAR, PER_OUTPUT, LONGEST = 15.0, 1.0, 0.5, 110.0  # seconds; estimates, for nothing has been measured
MARGIN = 5.0  # seconds before the end of the loan at which finished bars are brought home
USED_UP = "The free GPU quota is used up; continuing on CPU with the small model."
NO_GPU = "No GPU can be had now; continuing on CPU with the small model."
USED_UP_TITLES = ("ZeroGPU quota exceeded", "ZeroGPU pending credits exceeded")
NO_GPU_TITLES = ("ZeroGPU queue timeout", "ZeroGPU client error", "ZeroGPU illegal duration")
STOP: Any = multiprocessing.get_context("fork").Event() if ZERO_GPU else threading.Event()
GENERATORS: dict[str, MidiGenerator] = {}  # filled before the first fork


def borrow_gpu(composer: Composer, small: str = "museformer-small") -> None:
    """Before the page is launched: moves the model of the composer to the GPU that its calls will have. What is not
    written there (the comparison, and all where the quota is used up) is written by the embedded model `small`."""
    model = composer.generator.model
    GENERATORS["gpu"] = composer.generator
    model.to(device=DEVICE, dtype=model.dtype)
    composer.local = MidiGenerator.from_pretrained(small, device="cpu")
    composer.remote = write_remotely


def seconds_asked(job: Job) -> float:
    """How long the GPU is asked for; no more than a visitor's quota is likely to hold. What is finished by then is
    kept."""
    return min(STARTING + job.bars * (PER_BAR + PER_OUTPUT * job.outputs), LONGEST)


@GPU(duration=seconds_asked)
def write(job: Job) -> Iterator[tuple[Any, ...]]:
    """Yields ("music", output, bars, ids) for finished bars, ("wait",) four times a second, and as the last
    ("pieces", fields of each piece) or ("refused", a sentence for the visitor)."""
    news: queue.Queue[tuple[Any, ...]] = queue.Queue()

    def work() -> None:
        try:
            how = {"on_music": lambda *music: news.put(("music", *music)), "max_seconds": seconds_asked(job) - MARGIN}
            pieces = job.perform(GENERATORS["gpu"], stop=STOP, **how)
            news.put(("pieces", [{**vars(piece), "processor": None} for piece in pieces]))
        except Exception as error:  # its class may not survive the way to the other process; its sentence does
            news.put(("refused", sentence_for(error)))

    thread = threading.Thread(target=work, daemon=True, name="gpu model")
    thread.start()
    try:
        while True:
            try:
                item = news.get(timeout=POLL)
            except queue.Empty:
                item = ("wait",)
            yield item
            if item[0] in ("pieces", "refused"):
                return
    finally:
        STOP.set()
        thread.join()


def write_remotely(job: Job, on_music: Callable, stop: threading.Event) -> list[GeneratedMidi]:
    """The pieces of a job, written on a borrowed GPU. Call it in the context of the event that asks for them: the quota
    is the visitor's.

    Raises:
        NoGpuError: none is to be had; nothing has been written.
        RequestError: the job cannot be fulfilled.
    """
    STOP.clear()
    pieces: list[GeneratedMidi] = []
    refusal = ""
    try:
        for kind, *what in write(job):
            if stop.is_set():
                STOP.set()
            if kind == "music":
                on_music(*what)
            elif kind == "pieces":
                processor = GENERATORS["gpu"].processor
                pieces = [GeneratedMidi(**{**fields, "processor": processor}) for fields in what[0]]
            elif kind == "refused":
                refusal = what[0]
    except Exception as error:  # spaces raises gradio.Error for everything; the title says what it is
        title = getattr(error, "title", "")
        if title in USED_UP_TITLES or title in NO_GPU_TITLES:
            raise NoGpuError(USED_UP if title in USED_UP_TITLES else NO_GPU) from None
        raise RuntimeError(f"writing on the GPU failed: {title}") from error
    if refusal:
        raise RequestError(refusal)
    return pieces

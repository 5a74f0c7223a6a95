"""A stand-in for the package `spaces` on ZeroGPU: what its decorator does with a generator function, without a GPU.

As there, a call first asks for a GPU, for the visitor of the current context and for the seconds that `duration` says,
and raises `gradio.Error` with a title where it gets none. Then it runs the function in a process forked from this one,
which later calls use again; arguments and what is yielded are pickled. Closing the generator ends the function at its
next yield.
"""

import os
from contextvars import ContextVar
from functools import partial
from multiprocessing import get_context

import gradio as gr

FORK = get_context("fork")
VISITOR: ContextVar[str] = ContextVar("visitor", default="nobody")
LOG: list[dict] = []  # of every call: visitor, seconds, pid
REFUSAL: list[tuple[str, str]] = []  # (title, message) of the next calls


def GPU(task=None, *, duration=60):  # noqa: N802 - the name of the original
    if task is None:
        return partial(GPU, duration=duration)
    workers = []

    def serve(arguments, results, closed):
        while True:
            args = arguments.get()
            closed.clear()
            results.put(("pid", os.getpid()))
            try:
                for value in task(*args):
                    if closed.is_set():
                        break
                    results.put(("value", value))
            except Exception as error:
                results.put(("error", type(error).__name__))
            results.put(("end", None))

    def handler(*args):
        call = {"visitor": VISITOR.get(), "seconds": duration(*args) if callable(duration) else duration}
        LOG.append(call)
        if REFUSAL:
            title, message = REFUSAL[0]
            raise gr.Error(message, title=title, print_exception=False)
        if not workers:
            channel = FORK.SimpleQueue(), FORK.SimpleQueue(), FORK.Event()
            FORK.Process(target=serve, args=channel, daemon=True).start()
            workers.append(channel)
        arguments, results, closed = workers[0]
        arguments.put(args)
        ended = False
        try:
            while True:
                kind, value = results.get()
                if kind == "pid":
                    call["pid"] = value
                elif kind == "value":
                    yield value
                else:
                    ended = True
                    if kind == "error":
                        results.get()
                        raise gr.Error(value, title="ZeroGPU worker error", print_exception=False)
                    return
        finally:
            if not ended:
                closed.set()
                while results.get()[0] != "end":
                    pass

    return handler

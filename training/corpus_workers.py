"""A pool of worker processes that outlives crashes and hangs of its workers.

Each worker holds one task at a time. A worker that dies or exceeds the time limit is replaced, and its task ends with a
`WorkerFailure`; all other tasks go on. (`concurrent.futures` gives up the whole pool when one process dies.)
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

START_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class WorkerFailure:
    """Why a task has no result: `reason` is worker_crash, time_limit or internal_error."""

    reason: str
    detail: str


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Answer tasks until the other end of the pipe closes (also when the parent was killed)."""
    try:
        while True:
            task = pipe.recv()
            try:
                answer = function(task)
            except Exception as exc:  # a worker must answer whatever a file provokes; the file is reported
                answer = WorkerFailure("internal_error", f"{type(exc).__name__}: {exc}")
            pipe.send(answer)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass


class _Worker:
    """One process and its task; the first task gets extra time, because the process has to import the libraries."""

    def __init__(self, context, function: Callable[[Any], Any], time_limit: float):
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, other), daemon=True)
        self.process.start()
        other.close()
        self.time_limit, self.number, self.deadline = time_limit, -1, time.monotonic() + START_SECONDS

    def give(self, number: int, task: Any) -> None:
        extra = START_SECONDS if self.number < 0 else 0.0
        self.number, self.deadline = number, time.monotonic() + extra + self.time_limit
        with contextlib.suppress(BrokenPipeError):  # a dead process shows itself when the answer is taken
            self.pipe.send(task)

    def take(self) -> Any:
        """The answer, or a failure if the process died instead."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return WorkerFailure("worker_crash", f"worker ended with exit code {self.process.exitcode}")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def start_context():
    """Fork server where there is one: the libraries are imported once, and a replacement starts in milliseconds."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["partimento.training.corpus_stages"])
        return context
    return multiprocessing.get_context("spawn")


def run_tasks(
    function: Callable[[Any], Any], tasks: Iterable[Any], workers: int, time_limit: float
) -> Iterator[tuple[int, Any]]:
    """Yield (number of the task, result or `WorkerFailure`) in the order in which tasks end.

    Args:
        function: importable by name, called in the workers; its exceptions become failures.
        workers: number of processes; 0 runs in this process, without protection and time limit.
        time_limit: seconds per task. The first task of a process gets `START_SECONDS` more.
    """
    numbered = enumerate(tasks)
    if workers == 0:
        for number, task in numbered:
            yield number, function(task)
        return
    context, pool = start_context(), []
    try:
        for number, task in itertools.islice(numbered, workers):
            pool.append(_Worker(context, function, time_limit))
            pool[-1].give(number, task)
        while pool:
            timeout = min(w.deadline for w in pool) - time.monotonic()
            ready = set(wait([w.pipe for w in pool], timeout=max(0.0, timeout)))
            for worker in list(pool):
                if worker.pipe in ready:
                    answer = worker.take()
                elif time.monotonic() > worker.deadline:
                    answer = WorkerFailure("time_limit", f"not done after {time_limit:g} s")
                else:
                    continue
                number, following = worker.number, next(numbered, None)
                lost = isinstance(answer, WorkerFailure) and answer.reason != "internal_error"
                if lost or following is None:
                    worker.stop()
                    pool.remove(worker)
                if following is not None:
                    if lost:
                        worker = _Worker(context, function, time_limit)
                        pool.append(worker)
                    worker.give(*following)
                yield number, answer
    finally:
        for worker in pool:
            worker.stop()

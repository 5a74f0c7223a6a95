"""How the Spaces are served: bounds for what the server keeps, and a sentence where too many wait."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, Response

if TYPE_CHECKING:
    from composer_components import Shelf

MOST_WAITING = 16  # jobs in the queue
MOST_VISITORS = 64  # whose pages are kept; what was used least recently goes
MANY_WAITING = f"{MOST_WAITING} people are waiting; please retry in a minute."
TRIM_SECONDS = 15
MODEL_FILE = Path(__file__).with_name("model_id.txt")  # a Space that was exported with a model of its own has it


def prepare() -> None:
    """Keeps this process offline unless MODEL_ID names a model that is elsewhere, and bounds its memory; for the moment
    before Gradio is imported, which this module does not.

    Gradio keeps facts of 10,000 events and puts all of them into a table after each event; here they are few. glibc
    keeps eight pools of memory per core; two are enough where threads come and go, and what is free goes back to the
    system.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if MODEL_FILE.is_file():
        os.environ.setdefault("MODEL_ID", MODEL_FILE.read_text(encoding="utf-8").strip())
    if "/" not in os.environ.get("MODEL_ID", ""):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "50")
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries have no such pools
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-8, 2)  # M_ARENA_MAX of malloc.h
        threading.Thread(target=_trim, args=(libc.malloc_trim,), daemon=True, name="trim").start()


def _trim(malloc_trim: Any) -> None:
    while True:
        time.sleep(TRIM_SECONDS)
        malloc_trim(0)


def launch_options(shelf: Shelf, css: str) -> dict[str, Any]:
    """Arguments of `Blocks.launch` that a Space needs."""
    return {
        "ssr_mode": False,
        "show_error": True,
        "max_file_size": "2mb",
        "css": css,
        "state_session_capacity": MOST_VISITORS,
        "app_kwargs": {"routes": shelf.routes(), "exception_handlers": {HTTPException: refusal}},
    }


async def refusal(request: Request, error: Exception) -> Response:
    """A browser is told of a full queue in our words; programs get the status 503 that they know."""
    assert isinstance(error, HTTPException)
    if error.status_code == 503 and "mozilla" in request.headers.get("user-agent", "").lower():
        return JSONResponse({"detail": MANY_WAITING}, 429)
    return await http_exception_handler(request, error)

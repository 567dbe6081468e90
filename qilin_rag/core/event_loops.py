"""Run coroutines from code that is not asynchronous, also in a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any


def run_async(work: Callable[[], Any]) -> None:
    """Run a coroutine to its end; in a thread of its own if an event loop is already running (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]

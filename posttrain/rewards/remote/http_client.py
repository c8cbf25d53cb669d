"""What the clients of HTTP servers share: addresses, waits, and an event loop for code that does not await."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

Result = TypeVar("Result")

# Spreads clients out; unlike the functions of ``random`` it leaves the generator of the process as it is.
jitter = SystemRandom()


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} should start with http:// or https://")
    return url.rstrip("/")


Address = Annotated[str, AfterValidator(_address)]


def bearer(key: str | None) -> dict[str, str]:
    """The header that sends ``key``; none without one."""
    return {"authorization": f"Bearer {key}"} if key else {}


def retry_after(header: str | None) -> float:
    """Seconds that a ``Retry-After`` header asks to wait: it gives a number or a date. 0.0 without a readable one."""
    if header is None:
        return 0.0
    try:
        seconds = float(header) if header.strip().isdigit() else parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return 0.0
    return max(0.0, seconds)


class Pace:
    """Spreads requests evenly, ``per_minute`` of them; None: they need not wait. For one event loop."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the time of the next request."""
        now = time.monotonic()
        starts = max(now, self._next)
        self._next = starts + self._seconds
        await asyncio.sleep(starts - now)


class LoopThread:
    """An event loop on a thread of its own. A daemon: a program that forgets ``close`` can still end."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What ``work`` returns; from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

"""Ctrl-C: the first one finishes the round, the second one stops at once."""

import signal
from collections.abc import Callable

import trio


class StopNow(BaseException):
    """The user insisted: everything is closed, nothing is finished."""


async def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call stop at the first SIGINT or SIGTERM; raise StopNow at the second."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for _ in received:
            stop()
            break
        async for _ in received:
            raise StopNow

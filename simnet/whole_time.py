"""A run of trio that is the same every time: virtual time, order and chance from the seed.

Time stands still while anything computes and jumps when all tasks wait (trio's MockClock). Four
things of this process would let the real machine in, and are replaced while a run lasts:

- trio's scheduler shuffles the tasks that can run: it does so from the seed, and sorts them first
  (the switch that pytest-trio uses for hypothesis);
- trio.to_thread.run_sync works at once, in the one thread there is: real threads would end in any
  order, at no virtual time;
- time.time and time.monotonic tell the virtual time, for libp2p reads them;
- the generator of the random module is seeded, and put back afterwards.
"""

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio._core._run
from trio.testing import MockClock

T = TypeVar("T")
EPOCH_S = 1_700_000_000.0  # what time.time tells at the start: any time that is not 1970


def run(function: Callable[..., Awaitable[T]], *arguments: object, seed: int) -> T:
    """trio.run, the same every time."""
    clock = MockClock(autojump_threshold=0)
    with _repeatable(clock, seed):
        return trio.run(function, *arguments, clock=clock)


@contextmanager
def _repeatable(clock: MockClock, seed: int) -> Iterator[None]:
    scheduler: Any = trio._core._run
    replaced: list[tuple[Any, str, object]] = [
        (scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        (scheduler, "_r", random.Random(seed)),
        (trio.to_thread, "run_sync", _run_here),
        (time, "time", lambda: EPOCH_S + clock.current_time()),
        (time, "monotonic", clock.current_time),
    ]
    before = [getattr(module, name) for module, name, _ in replaced]
    chance = random.getstate()
    random.seed(seed)
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(replaced, before, strict=True):
            setattr(module, name, value)
        random.setstate(chance)


async def _run_here(function: Callable[..., T], *arguments: object, **how: object) -> T:
    """In place of trio.to_thread.run_sync; how it would treat its thread does not matter."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)

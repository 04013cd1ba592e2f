"""Out of the nest: trio's nurseries raise groups even when one thing went wrong."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lone_exception() -> Iterator[None]:
    """Raise the exception itself where the block raises a group with just one inside.

    For context managers that hide a nursery: what their block raises should leave them unchanged.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        lone = _lone_leaf(group)
        if lone is None:
            raise
        raise lone from lone.__cause__


def _lone_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    if len(group.exceptions) != 1:
        return None
    inner = group.exceptions[0]
    return _lone_leaf(inner) if isinstance(inner, BaseExceptionGroup) else inner

"""A hostile peer: a program with a key of its own that speaks real libp2p and behaves as it likes.

    python tests/hostile.py BEHAVIOUR join --swarm LINK ...     a member (hostile_members.py);
                                                     BEHAVIOUR,BEHAVIOUR: one after the other
    python tests/hostile.py BEHAVIOUR SWARM ADDRESS ...         a stranger (hostile_strangers.py)

A member is p2ptrain's own node, bent in a few places: it is admitted, trains and votes, and lies.
A stranger never asks to be admitted; it has connections and says on them what it wants. Both print
events as `p2ptrain --json` does; "lied" counts what was really done.
"""

import os
import signal
import sys
from functools import partial

import trio
from hostile_members import become
from hostile_strangers import STRANGERS, Attack, for_ever


def come_from_elsewhere(number: int) -> None:
    """Dial from a loopback address of our own: victims bound what one address may ask of them."""
    address = f"127.0.1.{1 + number}"
    vars(trio)["open_tcp_stream"] = partial(trio.open_tcp_stream, local_address=address)


async def attack(name: str, swarm: str, victims: tuple[str, ...]) -> None:
    """Attack until SIGINT or SIGTERM; elsewhere we would not share our victims' processor."""
    os.nice(10)
    come_from_elsewhere([*STRANGERS].index(name))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(for_ever, Attack(swarm, victims), STRANGERS[name])
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return


def main() -> None:
    """Become what the command line says."""
    name, *arguments = sys.argv[1:]
    if name not in STRANGERS:
        become(name, arguments)
    else:
        trio.run(attack, name, arguments[0], tuple(arguments[1:]))


if __name__ == "__main__":
    main()

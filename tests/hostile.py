"""A hostile peer: a program with a key of its own that speaks real libp2p and behaves as it likes.

    python tests/hostile.py BEHAVIOUR join --swarm LINK ...     a member (hostile_members.py);
                                                     BEHAVIOUR,BEHAVIOUR: one after the other
    python tests/hostile.py BEHAVIOUR SWARM ADDRESS ...         a stranger (hostile_strangers.py)

A member is p2ptrain's own node, bent in a few places: it is admitted, trains and votes, and lies.
A stranger never asks to be admitted; it has connections and says on them what it wants. Both print
events as `p2ptrain --json` does; "lied" counts what was really done.
"""

import signal
import sys

import trio
from hostile_members import become
from hostile_strangers import STRANGERS, Attack, for_ever


async def attack(name: str, swarm: str, victims: tuple[str, ...]) -> None:
    """Attack until SIGINT or SIGTERM."""
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

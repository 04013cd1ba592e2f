"""The one loop that joins a pure machine to trio. All waiting for a machine happens here.

Whoever wants something of the machine posts a step: a function of the time that calls the machine
and returns its effects. One task takes the steps in turn, wakes the machine at its deadline, and
carries the effects out in their order before it takes the next step. So a Persist is on disk
before a Send behind it leaves, and no two calls into the machine ever overlap.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import trio

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.net.budget import Pool
from p2ptrain.net.fair import FairQueue
from p2ptrain.wire.limits import STEP_OVERHEAD_BYTES, STEPS_BYTES_MAX
from p2ptrain.wire.messages import Message
from p2ptrain.wire.peer_id import PeerId

EffectT = TypeVar("EffectT")
EffectCo = TypeVar("EffectCo", covariant=True)
Step = Callable[[float], Sequence[EffectT]]
Receive = Callable[[float, PeerId, Message], Sequence[EffectT]]

OURS = ""  # the source of our own steps
STEPS_QUEUED_MAX = 4096  # a full roster's pieces of one round in shards of 1/64; then some are lost


class Driven(Protocol[EffectCo]):
    """What drive needs of a machine."""

    @property
    def deadline(self) -> float:
        """When to call expire next, seconds on the trio clock."""

    def expire(self, now: float) -> Sequence[EffectCo]:
        """The deadline has come."""


class Inbox(Generic[EffectT]):
    """The steps that wait for one machine: our own and each peer's in their order, taken in turn.

    Peers can fill it only so far, none of them more than is left for the others; our own steps
    always find room, for they must not be lost, and nobody waits to post: two machines that wait
    for each other's inbox would never move again.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._steps = FairQueue[Step[EffectT]]()
        self._filled = trio.Event()
        self._pool = Pool(STEPS_BYTES_MAX)
        self._held_bytes: Counter[PeerId] = Counter()

    def offer(self, step: Step[EffectT]) -> bool:
        """Queue a step of our own that may be lost; False if too many wait."""
        if self._steps.count(OURS) >= STEPS_QUEUED_MAX:
            return False
        self.post(step)
        return True

    def offer_from(self, sender: PeerId, message: Message, receive: Receive[EffectT]) -> bool:
        """Queue the call receive(now, sender, message); False if the sender's share is full."""
        cost_bytes = len(getattr(message, "data", b"")) + STEP_OVERHEAD_BYTES
        if not self._pool.has_room(self._held_bytes[sender], cost_bytes):
            return False

        def step(now: float) -> Sequence[EffectT]:
            self._count(sender, -cost_bytes)
            return receive(now, sender, message)

        self._count(sender, cost_bytes)
        self._put(sender, step)
        return True

    def _count(self, sender: PeerId, more_bytes: int) -> None:
        self._pool.taken_bytes += more_bytes
        self._held_bytes[sender] += more_bytes
        if not self._held_bytes[sender]:
            del self._held_bytes[sender]

    def post(self, step: Step[EffectT]) -> None:
        """Queue a step of our own."""
        self._put(OURS, step)

    def _put(self, source: str, step: Step[EffectT]) -> None:
        self._steps.put(source, step)
        self._filled.set()

    async def take(self) -> Step[EffectT]:
        """The next step; cancelled, it has taken none."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._steps:
            self._filled = trio.Event()
            await self._filled.wait()
        step = self._steps.take()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return step


async def drive(
    machine: Driven[EffectT],
    inbox: Inbox[EffectT],
    carry_out: Callable[[EffectT], Awaitable[bool]],
    strike: Callable[[RemoteProtocolError], None],
) -> None:
    """Run a machine until an effect ends it; whoever starts it posts its start as a step.

    carry_out does one effect, without waiting for any peer, and returns True when the machine is
    done. A peer's protocol error goes to strike and the machine goes on: one bad peer must not be
    able to stop a group. Errors of our own propagate.
    """
    effects: Sequence[EffectT] = []
    while True:
        for effect in effects:
            if await carry_out(effect):
                return
        step: Step[EffectT] = machine.expire
        with trio.move_on_at(machine.deadline):
            step = await inbox.take()
        try:
            effects = step(trio.current_time())
        except RemoteProtocolError as error:
            effects = []
            strike(error)

"""The loop between a machine and trio: order, deadlines, faults, and what an inbox has room for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import pytest
import trio
from trio.testing import MockClock

from p2ptrain.errors import LocalProtocolError, RemoteProtocolError
from p2ptrain.node.drive import STEPS_QUEUED_MAX, Inbox, drive
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.limits import CHUNK_BYTES_MAX, STEPS_BYTES_MAX
from p2ptrain.wire.messages import Blob, GetTip, Message
from p2ptrain.wire.peer_id import PeerId

STOP = "stop"


@dataclass
class Clockwork:
    """A machine that is due at fixed times and says when it was woken."""

    due: list[float] = field(default_factory=list)

    @property
    def deadline(self) -> float:
        return self.due[0] if self.due else inf

    def expire(self, now: float) -> Sequence[str]:
        self.due.pop(0)
        return [f"expired at {now - self.began:g}"]

    def __post_init__(self) -> None:
        self.began = trio.current_time()
        self.due = [self.began + at for at in self.due]


@dataclass
class Shell:
    """Carries effects out by writing them down; each takes a while, if that is wished."""

    takes_s: float = 0.0
    done: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)

    async def carry_out(self, effect: str) -> bool:
        await trio.sleep(self.takes_s)
        self.done.append(effect)
        return effect == STOP

    def strike(self, error: RemoteProtocolError) -> None:
        self.struck.append(error.peer)


def says(*effects: str) -> Sequence[str]:
    return effects


def bad(now: float) -> Sequence[str]:
    raise RemoteProtocolError("liar", "averaging 5.1", "not its turn")


async def test_effects_are_carried_out_in_order_before_the_next_step(
    autojump_clock: MockClock,
) -> None:
    inbox, shell = Inbox[str](), Shell(takes_s=1.0)
    inbox.post(lambda now: says("persist", "send"))
    inbox.post(lambda now: says(f"seen {len(shell.done)}", STOP))
    await drive(Clockwork(), inbox, shell.carry_out, shell.strike)
    assert shell.done == ["persist", "send", "seen 2", STOP]


async def test_nothing_is_carried_out_after_the_last_effect(autojump_clock: MockClock) -> None:
    inbox, shell = Inbox[str](), Shell()
    inbox.post(lambda now: says(STOP, "too late"))
    await drive(Clockwork(), inbox, shell.carry_out, shell.strike)
    assert shell.done == [STOP]


async def test_a_peer_s_fault_is_a_strike_and_the_machine_goes_on(
    autojump_clock: MockClock,
) -> None:
    inbox, shell = Inbox[str](), Shell()
    for step in (bad, bad, lambda now: says("still here", STOP)):
        inbox.post(step)
    await drive(Clockwork(), inbox, shell.carry_out, shell.strike)
    assert shell.struck == ["liar", "liar"]
    assert shell.done == ["still here", STOP]


async def test_our_own_errors_end_the_loop(autojump_clock: MockClock) -> None:
    def broken(now: float) -> Sequence[str]:
        raise LocalProtocolError("our bug")

    inbox, shell = Inbox[str](), Shell()
    inbox.post(broken)
    with pytest.raises(LocalProtocolError):
        await drive(Clockwork(), inbox, shell.carry_out, shell.strike)
    assert not shell.struck


async def test_the_machine_is_woken_at_its_deadlines(autojump_clock: MockClock) -> None:
    inbox, shell = Inbox[str](), Shell()
    with trio.move_on_after(10):
        await drive(Clockwork([1.5, 4.0]), inbox, shell.carry_out, shell.strike)
    assert shell.done == ["expired at 1.5", "expired at 4"]


async def test_a_deadline_that_passes_while_effects_are_carried_out_comes_before_new_steps(
    autojump_clock: MockClock,
) -> None:
    inbox, shell = Inbox[str](), Shell(takes_s=2.0)
    inbox.post(lambda now: says("slow"))
    inbox.post(lambda now: says(STOP))
    await drive(Clockwork([1.0]), inbox, shell.carry_out, shell.strike)
    assert shell.done == ["slow", "expired at 2", STOP]


async def test_a_full_inbox_drops_peers_messages_and_none_of_ours(
    autojump_clock: MockClock,
) -> None:
    inbox, shell = Inbox[str](), Shell()
    taken = [inbox.offer(lambda now: says()) for _ in range(STEPS_QUEUED_MAX + 3)]
    assert taken == [True] * STEPS_QUEUED_MAX + [False] * 3
    inbox.post(lambda now: says("ours"))
    inbox.post(lambda now: says(STOP))
    await drive(Clockwork(), inbox, shell.carry_out, shell.strike)
    assert shell.done == ["ours", STOP]
    assert inbox.offer(lambda now: says())


async def test_nobody_s_messages_take_all_the_room(autojump_clock: MockClock) -> None:
    inbox, shell, small = Inbox[str](), Shell(), GetTip(1)
    content = bytes(CHUNK_BYTES_MAX)
    large = Blob(cid_of(content), content)

    def receive(now: float, sender: PeerId, message: Message) -> list[str]:
        return []

    greedy, honest = PeerId("greedy"), PeerId("honest")
    while inbox.offer_from(greedy, large, receive):
        pass
    assert inbox._pool.taken_bytes <= STEPS_BYTES_MAX // 2
    taken = sum(inbox.offer_from(honest, small, receive) for _ in range(100_000))
    assert taken >= 1000
    with trio.move_on_after(1):
        await drive(Clockwork(), inbox, shell.carry_out, shell.strike)
    assert inbox._pool.taken_bytes == 0
    assert not inbox._held_bytes


async def test_a_step_waits_for_one_step_of_everybody_else_and_not_for_a_flood() -> None:
    inbox, shell = Inbox[str](), Shell()

    def receive(now: float, sender: PeerId, message: Message) -> list[str]:
        return [sender]

    for _ in range(1000):
        inbox.offer_from(PeerId("flood"), GetTip(1), receive)
    inbox.offer_from(PeerId("honest"), GetTip(1), receive)
    inbox.offer_from(PeerId("honest"), GetTip(1), receive)
    inbox.post(lambda now: says("ours"))
    inbox.post(lambda now: says(STOP))
    await drive(Clockwork(), inbox, shell.carry_out, shell.strike)
    assert shell.done == ["flood", "honest", "ours", "flood", "honest", STOP]


async def test_two_loops_that_post_to_each_other_s_full_inboxes_both_go_on(
    autojump_clock: MockClock,
) -> None:
    """Each waited for room in the other's inbox, for ever, when posting could wait."""
    one, two = Inbox[str](), Inbox[str]()
    done: list[str] = []

    async def cross(other: Inbox[str], effect: str) -> bool:
        done.append(effect)
        if effect == "cross":
            other.post(lambda now: says(STOP))
        return effect == STOP

    for inbox in (one, two):
        inbox.post(lambda now: says("cross"))
        while inbox.offer(lambda now: says()):
            pass
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            shell = Shell()
            nursery.start_soon(drive, Clockwork(), one, lambda e: cross(two, e), shell.strike)
            nursery.start_soon(drive, Clockwork(), two, lambda e: cross(one, e), shell.strike)
    assert sorted(done) == ["cross", "cross", STOP, STOP]

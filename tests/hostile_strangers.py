"""Attackers that are no members: raw libp2p connections that say hello and then misbehave.

Each knows the swarm's id and the addresses of its victims, which is all that a link gives away.
They speak frames by hand over TCP, Noise and Yamux, with keys of their own. What a victim answers
is told in events: "dropped" (a connection ended, and the victim's last words), "sent".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count, islice
from random import Random
from secrets import token_bytes

import trio

from p2ptrain.net.framing import FrameDecoder, FramingError, Kind, decode_reason, encode_frame
from p2ptrain.net.identity import Identity, identity_of
from p2ptrain.net.libp2p_host import Dialler, running_host
from p2ptrain.net.link import Link, LinkBroken
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.node.greeting import make_hello
from p2ptrain.node.telemetry import json_lines
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.codec import encode
from p2ptrain.wire.digest import digest
from p2ptrain.wire.envelope import Ed25519Signer, sign_statement, swarm_digest
from p2ptrain.wire.limits import FRAME_BYTES_MAX, HELLO_BYTES_MAX
from p2ptrain.wire.messages import (
    Blob,
    GetBlob,
    GetHeaders,
    GetReduced,
    GetState,
    GetTip,
    Headers,
    Join,
    Statement,
    Tip,
)

AGAIN_S = 0.25  # between two tries of one attacker; refusals and bans must not stop it
PAUSE_S = 0.002  # of a flood: it must not take the CPU that its victims are measured on
MIB = 1 << 20


@dataclass
class Attack:
    """What an attacker knows, and its count of what it did.

    swarm    id of the swarm
    victims  full multiaddrs
    """

    swarm: str
    victims: tuple[str, ...]
    rng: Random = field(default_factory=lambda: Random(1))
    sent: int = 0

    def did(self, frames: int = 1) -> None:
        """Count frames that were sent, and say so now and then."""
        before, self.sent = self.sent, self.sent + frames
        if before == 0 or before.bit_length() != self.sent.bit_length():
            json_lines({"event": "lied", "what": "frames", "count": self.sent})

    @asynccontextmanager
    async def greeted(self, victim: str, identity: Identity) -> AsyncIterator[Link]:
        """A connection on which hellos were exchanged. Raises LinkBroken."""
        async with self.connected(victim, identity) as link:
            await link.control.send_all(encode_frame(Kind.HELLO, make_hello((self.swarm,), ())))
            await expect_hello(link)
            yield link

    @asynccontextmanager
    async def connected(self, victim: str, identity: Identity) -> AsyncIterator[Link]:
        """A connection with both lanes, on which nothing was said. Raises LinkBroken."""
        with lone_exception():
            async with running_host(identity, []) as host:
                link = await Dialler(host).connect(victim)
                try:
                    yield link
                finally:
                    await link.close()


async def expect_hello(link: Link) -> None:
    """Wait for the victim's hello. Raises LinkBroken with its words if it says something else."""
    decoder = FrameDecoder()
    while (frame := decoder.next_frame()) is None:
        data = await link.control.receive_some()
        if not data:
            raise LinkBroken("it hung up")
        decoder.feed(data)
    if frame.kind is not Kind.HELLO:
        raise LinkBroken(f"{frame.kind.name}: {decode_reason(frame.payload)}")


def stranger(number: int | None = None) -> Identity:
    """A new key, or always the same one for a number."""
    return identity_of(token_bytes(32) if number is None else number.to_bytes(32, "big"))


async def last_words(link: Link) -> str:
    """Read the control lane to its end, and say why the victim ended it."""
    decoder, words = FrameDecoder(), "it hung up without a word"
    with suppress(LinkBroken, FramingError):
        while data := await link.control.receive_some():
            decoder.feed(data)
            while frame := decoder.next_frame():
                if frame.kind in (Kind.GOODBYE, Kind.REFUSED):
                    words = f"{frame.kind.name}: {decode_reason(frame.payload)}"
    return words


async def drain(link: Link, answer_pings: bool = True) -> None:
    """Read everything on both lanes and forget it, until the link ends."""

    async def control() -> None:
        decoder = FrameDecoder()
        while data := await link.control.receive_some():
            decoder.feed(data)
            while frame := decoder.next_frame():
                if frame.kind is Kind.PING and answer_pings:
                    await link.control.send_all(encode_frame(Kind.PONG))

    async def bulk() -> None:
        while await link.bulk.receive_some():
            pass

    with suppress(LinkBroken), lone_exception():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control)
            nursery.start_soon(bulk)


async def for_ever(
    attack: Attack, what: Callable[[Attack, str, Identity], Awaitable[None]]
) -> None:
    """Do something to all victims at once, each again and again, with one key a victim."""

    async def one(victim: str) -> None:
        identity = stranger(digest_number(f"{what.__name__} {victim}"))
        while True:
            words = "done"
            try:
                await what(attack, victim, identity)
            except* LinkBroken as broken:
                words = str(first_of(broken))
            json_lines({"event": "dropped", "victim": victim, "reason": words})
            await trio.sleep(AGAIN_S)

    async with trio.open_nursery() as nursery:
        for victim in attack.victims:
            nursery.start_soon(one, victim)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of the errors in a group of groups."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def digest_number(text: str) -> int:
    """A number for a text, to make a key of."""
    return int.from_bytes(digest("attacker", text.encode())[:16], "big")


# --- bytes that are no frames, frames that are no messages ---------------------------------------
def _deep() -> bytes:
    return b"\x91" * (FRAME_BYTES_MAX // 2) + b"\xc0"


BROKEN_STREAMS: tuple[tuple[str, bytes], ...] = (
    ("a frame over the bound", (FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"\x00"),
    ("a frame of 4 GiB", b"\xff\xff\xff\xff\x00"),
    ("an unknown kind", b"\x00\x00\x00\x00\x63"),
    ("a ping with a payload", b"\x00\x00\x00\x01\x02."),
    ("a second hello", encode_frame(Kind.HELLO, b"again")),
    ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a frame cut short", (1000).to_bytes(4, "big") + b"\x00" + bytes(500)),
)
BROKEN_MESSAGES: tuple[tuple[str, bytes], ...] = (
    ("nothing", b""),
    ("an unknown code", b"\x91\x7f"),
    ("half a million arrays in one another", _deep()),
    ("an array that claims 4 billion", b"\xdd\xff\xff\xff\xff"),
    ("a text that claims 4 GiB", b"\xdb\xff\xff\xff\xff"),
    ("a map", b"\x81\x01\x02"),
    ("a float", b"\xcb" + bytes(8)),
    ("an extension type", b"\xc7\x04\x01abcd"),
)


async def garbage(attack: Attack, victim: str, identity: Identity) -> None:
    """One broken stream a connection, after broken messages, random bytes and bad hellos."""
    turn = attack.rng.randrange(len(BROKEN_STREAMS) + 2)
    if turn >= len(BROKEN_STREAMS):
        async with attack.connected(victim, stranger()) as link:
            hello = attack.rng.randbytes(attack.rng.choice((0, 1, 100, HELLO_BYTES_MAX)))
            await link.control.send_all(encode_frame(Kind.HELLO, hello))
            attack.did()
            raise LinkBroken(await last_words(link))
    async with attack.greeted(victim, stranger()) as link:
        for _, payload in BROKEN_MESSAGES:
            lane = attack.rng.choice((link.control, link.bulk))
            await lane.send_all(encode_frame(Kind.DATA, payload))
            await lane.send_all(encode_frame(Kind.DATA, attack.rng.randbytes(64)))
            attack.did(2)
        name, broken = BROKEN_STREAMS[turn]
        await attack.rng.choice((link.control, link.bulk)).send_all(broken)
        attack.did()
        if "cut short" in name:
            return
        raise LinkBroken(f"after {name}: {await last_words(link)}")


# --- too much ------------------------------------------------------------------------------------
async def _flood(
    attack: Attack, victim: str, identity: Identity, frames: Callable[[int], bytes], batch: int
) -> None:
    """Send frames as fast as they are taken, and read what comes back."""
    async with attack.greeted(victim, identity) as link, trio.open_nursery() as nursery:
        nursery.start_soon(drain, link)
        try:
            for turn in count():
                lane = (link.control, link.bulk)[turn % 2]
                numbers = range(turn * batch, (turn + 1) * batch)
                await lane.send_all(b"".join(encode_frame(Kind.DATA, frames(n)) for n in numbers))
                attack.did(batch)
                await trio.sleep(PAUSE_S)
        finally:
            nursery.cancel_scope.cancel()


async def flood_small(attack: Attack, victim: str, identity: Identity) -> None:
    """Small messages that mean nothing here: answers to what nobody asked."""
    some = [encode(Headers(digest("x"), ())), encode(Tip(None, 0, ()))]
    await _flood(attack, victim, identity, lambda n: some[n % 2], 512)


async def flood_big(attack: Attack, victim: str, identity: Identity) -> None:
    """Blobs of 1 MiB that nobody asked for."""
    asked = "bafkrei" + "a" * 52
    blob = encode(Blob(asked, bytes(MIB)))
    await _flood(attack, victim, identity, lambda n: blob, 1)


def requests(attack: Attack) -> list[bytes]:
    """Requests that cost their receiver a disk read, a Merkle tree, a page of headers."""
    founding = digest("nobody's founding block")
    return [
        encode(GetBlob(attack.swarm)),
        *(encode(GetState(digest("b", bytes([n])), n)) for n in range(4)),
        *(encode(GetReduced(digest("b", bytes([n])), n)) for n in range(4)),
        encode(GetHeaders((founding,), 32)),
        encode(GetTip(1)),
    ]


async def flood_requests(attack: Attack, victim: str, identity: Identity) -> None:
    """Requests, far more than anybody needs; the answers are read and thrown away."""
    some = requests(attack)
    await _flood(attack, victim, identity, lambda n: some[n % len(some)], 128)


async def never_drains(attack: Attack, victim: str, identity: Identity) -> None:
    """Ask for blobs and states without end, and read no answer."""
    some = [encode(GetBlob(attack.swarm)), encode(GetTip(1))]
    async with attack.greeted(victim, identity) as link:
        batch = b"".join(encode_frame(Kind.DATA, each) for each in some * 32)
        while True:
            await link.bulk.send_all(batch)
            attack.did(64)
            await trio.sleep(0.02)


# --- too many ------------------------------------------------------------------------------------
async def reconnects(attack: Attack, victim: str, identity: Identity) -> None:
    """Connect, say hello, hang up: with one key, as fast as it goes."""
    for _ in islice(count(), 50):
        with suppress(LinkBroken):
            async with attack.greeted(victim, identity):
                attack.did()


async def identities(attack: Attack, victim: str, identity: Identity) -> None:
    """Many keys from one address: each connects and stays, without a word more than it must say."""

    async def stay() -> None:
        with suppress(LinkBroken):
            async with attack.greeted(victim, stranger()) as link:
                attack.did()
                await drain(link)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(stay)
            await trio.sleep(0.05)


async def joins(attack: Attack, victim: str, identity: Identity) -> None:
    """Joins of keys that are never seen again, a new key each, relayed by one connection."""
    swarm = swarm_digest(Cid(attack.swarm))
    async with attack.greeted(victim, identity) as link, trio.open_nursery() as nursery:
        nursery.start_soon(drain, link)
        for number in count():
            signer = Ed25519Signer(stranger().private_key)
            tip = digest("tip", number.to_bytes(8, "big"))
            signed = sign_statement(signer, swarm, Join(tip, digest("anchor"), 1))
            if number % 4 == 0:
                signed = replace(signed, signature=bytes(64))
            await link.control.send_all(encode_frame(Kind.DATA, encode(Statement(signed))))
            attack.did()
            await trio.sleep(PAUSE_S)


STRANGERS: dict[str, Callable[[Attack, str, Identity], Awaitable[None]]] = {
    "garbage_frames": garbage,
    "flood_small": flood_small,
    "flood_big": flood_big,
    "flood_requests": flood_requests,
    "never_drains": never_drains,
    "reconnects": reconnects,
    "identities": identities,
    "joins": joins,
}

"""Hellos: what this peer says of itself, and which peers it lets in (protocol/transport.md 3)."""

from collections.abc import Mapping

from p2ptrain.config import ARITHMETIC
from p2ptrain.config_version import version_number
from p2ptrain.wire.codec import pack, unpack
from p2ptrain.wire.limits import PROTOCOL_VERSION, STRIKES_MAX
from p2ptrain.wire.messages import Hello
from p2ptrain.wire.peer_id import PeerId

AGENT = f"p2ptrain/{version_number()}"


def make_hello(topics: tuple[str, ...], addresses: tuple[str, ...]) -> bytes:
    """The bytes of our hello."""
    return pack(Hello(PROTOCOL_VERSION, ARITHMETIC, topics, AGENT, addresses))


def judge_peer(
    strikes: Mapping[PeerId, int], topics: tuple[str, ...], peer: PeerId, data: bytes
) -> str | None:
    """Why a peer is refused: it is banned, or its hello does not fit; None if it is welcome."""
    if strikes.get(peer, 0) >= STRIKES_MAX:
        return f"{STRIKES_MAX} faults in this run"
    return judge_hello(topics, data)


def judge_hello(topics: tuple[str, ...], data: bytes) -> str | None:
    """Why a hello is refused, in words for its sender; None if it is welcome."""
    try:
        hello = unpack(Hello, data)
    except ValueError as error:
        return f"your hello cannot be read ({error}); this is {AGENT}, protocol {PROTOCOL_VERSION}"
    if hello.protocol != PROTOCOL_VERSION:
        return (
            f"you speak protocol {hello.protocol}, this peer {PROTOCOL_VERSION}: "
            "install the same release of p2ptrain on both"
        )
    if hello.arithmetic != ARITHMETIC:
        return (
            f"you compute by arithmetic {hello.arithmetic}, this peer by {ARITHMETIC}, so the bits "
            "would differ: pip install --upgrade p2ptrain on the older of the two"
        )
    if not _acquainted(topics, hello.topics):
        return f"this peer is in {', '.join(topics)}, not in {', '.join(hello.topics) or 'nothing'}"
    return None


def _acquainted(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether two peers have something to do with each other.

    A member names its swarm and then its data set, a seeder only data sets. A member and a seeder
    of its data set belong together; two swarms that happen to learn from the same data do not.
    """
    shared = set(ours) & set(theirs)
    both_members = len(ours) > 1 and len(theirs) > 1
    return bool(shared) and not (both_members and ours[0] not in shared)

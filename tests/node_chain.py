"""Blocks for tests of what a node keeps and applies: certified by nobody, but well-formed."""

from collections.abc import Sequence

from swarm_router import SETTINGS, founded

from p2ptrain.swarm.chain import Context, Settings, advance
from p2ptrain.swarm.history import Link
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.messages import ROUND, Block, Certificate, Entry, Norm2
from p2ptrain.wire.peer_id import PeerId, peer_id_of
from p2ptrain.wire.shards import merkle_root

ME = peer_id_of(digest("test peer", b"me"))
OTHER = peer_id_of(digest("test peer", b"other"))


def genesis_of(*peers: PeerId) -> Context:
    return founded(list(peers or (ME,)))


def round_block(parent: Context, name: str = "", peer: PeerId = ME) -> Block:
    """A block with one contribution; another name makes another block."""
    reveal = digest("reveal", parent.block, name.encode())
    entry = Entry(peer, digest("commit", name.encode()), 32, Norm2(1 << 64), reveal, 1)
    return Block(parent.block, ROUND, (entry,), (), (), ())


def certified(
    parent: Context,
    block: Block,
    shards: Sequence[bytes] = (),
    state: Digest | None = None,
    settings: Settings = SETTINGS,
) -> Link:
    """A block in the next view, and the context after it."""
    reduced = merkle_root(shards) if block.kind == ROUND else ZERO_DIGEST
    state = state or (
        digest("state", parent.state, reduced) if block.kind == ROUND else parent.state
    )
    certificate = Certificate(parent.view + 1, block, reduced, state, ())
    return Link(certificate, advance(parent, certificate, settings))


def chain_on(parent: Context, length: int, name: str = "") -> list[Link]:
    """Some rounds in a row; another name makes another branch."""
    links: list[Link] = []
    for number in range(length):
        context = links[-1].context if links else parent
        shards = shards_of(f"{name}{number}")
        links.append(certified(context, round_block(context, f"{name}{number}"), shards))
    return links


def shards_of(name: str) -> tuple[bytes, bytes]:
    """Two reduced shards."""
    return (name.encode() * 3, name.encode())

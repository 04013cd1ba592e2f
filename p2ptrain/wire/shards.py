"""Merkle trees over shards and state pieces: one root names all, a short path proves one.

Leaves and inner nodes are hashed under different domains, so neither can pass for the other. A
node without a sibling moves up as it is (nothing is hashed twice), so the shape follows from the
number of leaves, which whoever checks a path must know from elsewhere: it is the length of a
Commit's norms2, or follows from the recipe. protocol/encoding.md section 7.
"""

from collections.abc import Sequence

from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.peer_id import PeerId

EMPTY_ROOT = digest("empty")


def leaf_digest(leaf: bytes) -> Digest:
    """The tree's bottom node for one shard."""
    return digest("leaf", leaf)


def _parent(left: Digest, right: Digest) -> Digest:
    return digest("node", left, right)


def _level_above(level: Sequence[Digest]) -> list[Digest]:
    above = [_parent(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return [*above, level[-1]] if len(level) % 2 else above


def merkle_root(leaves: Sequence[bytes]) -> Digest:
    """The root over leaves in their order; EMPTY_ROOT for none."""
    return merkle_root_of_digests([leaf_digest(leaf) for leaf in leaves])


def merkle_root_of_digests(digests: Sequence[Digest]) -> Digest:
    """The root where the leaves' digests are known already."""
    level = list(digests)
    while len(level) > 1:
        level = _level_above(level)
    return level[0] if level else EMPTY_ROOT


def root_of_author(author: PeerId, root: Digest) -> Digest:
    """What a Commit names its author's shards by.

    A Commit is seen before its shards are. Whoever repeats another's root in a Commit of its own,
    and is then sent those shards, cannot pass them off under its own name.
    """
    return digest("contribution", author.encode("ascii"), root)


def merkle_proof(leaves: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """The siblings on the way from leaf `index` to the root. Raises IndexError outside."""
    return merkle_proofs(leaves)[index]


def merkle_proofs(leaves: Sequence[bytes]) -> list[tuple[Digest, ...]]:
    """The path of every leaf; each leaf is hashed once."""
    paths: list[list[Digest]] = [[] for _ in leaves]
    level = [leaf_digest(leaf) for leaf in leaves]
    height = 0
    while len(level) > 1:
        for index, path in enumerate(paths):
            sibling = (index >> height) ^ 1
            if sibling < len(level):
                path.append(level[sibling])
        level = _level_above(level)
        height += 1
    return [tuple(path) for path in paths]


def merkle_check(
    root: Digest, count: int, index: int, leaf: bytes, proof: tuple[Digest, ...]
) -> bool:
    """Whether `leaf` is number `index` of the `count` leaves under `root`."""
    return root_of_path(count, index, leaf, proof) == root


def root_of_path(count: int, index: int, leaf: bytes, proof: tuple[Digest, ...]) -> Digest | None:
    """The root that has `leaf` as number `index` of its `count` leaves, by its path.

    The path must have exactly the siblings that a tree of `count` leaves has, no more, no fewer:
    else None.
    """
    if not 0 <= index < count or len(proof) > count.bit_length():
        return None
    node = leaf_digest(leaf)
    siblings = iter(proof)
    while count > 1:
        if index ^ 1 < count:
            sibling = next(siblings, None)
            if sibling is None:
                return None
            node = _parent(sibling, node) if index % 2 else _parent(node, sibling)
        index //= 2
        count = (count + 1) // 2
    return node if next(siblings, None) is None else None

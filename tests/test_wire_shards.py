"""protocol/encoding.md section 7: a Merkle path proves one leaf at one place, and nothing else."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import PROOF_MAX, SHARDS_MAX, STATE_PIECES_MAX
from p2ptrain.wire.shards import (
    EMPTY_ROOT,
    leaf_digest,
    merkle_check,
    merkle_proof,
    merkle_proofs,
    merkle_root,
    merkle_root_of_digests,
)

leaves_of_a_tree = st.lists(st.binary(max_size=8), min_size=1, max_size=33)


@given(leaves=leaves_of_a_tree)
def test_every_leaf_is_proven_at_its_place(leaves: list[bytes]) -> None:
    root = merkle_root(leaves)
    proofs = merkle_proofs(leaves)
    assert merkle_root_of_digests([leaf_digest(leaf) for leaf in leaves]) == root
    for index, leaf in enumerate(leaves):
        assert merkle_proof(leaves, index) == proofs[index]
        assert merkle_check(root, len(leaves), index, leaf, proofs[index])
        assert len(proofs[index]) <= (len(leaves) - 1).bit_length()


@given(leaves=leaves_of_a_tree, data=st.data())
def test_a_proof_holds_for_no_other_leaf_place_or_path(leaves: list[bytes], data: Any) -> None:
    root, count = merkle_root(leaves), len(leaves)
    index = data.draw(st.integers(0, count - 1))
    leaf, proof = leaves[index], merkle_proof(leaves, index)
    assert not merkle_check(root, count, index, leaf + b"x", proof)
    assert not merkle_check(root, count, index, leaf, (*proof, root))
    assert not merkle_check(root, count, index, leaf, proof[:-1]) or not proof
    assert not merkle_check(Digest(bytes(32)), count, index, leaf, proof)
    for outside in (-1, count, count + index):
        assert not merkle_check(root, count, outside, leaf, proof)
    for other in range(count):
        if leaves[other] != leaf:
            assert not merkle_check(root, count, other, leaf, proof)
    if proof:
        changed = (digest("other"), *proof[1:])
        assert not merkle_check(root, count, index, leaf, changed)


@given(leaves=leaves_of_a_tree)
def test_roots_depend_on_number_and_order(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) != merkle_root([*leaves, leaves[-1]])
    if leaves != leaves[::-1]:
        assert merkle_root(leaves) != merkle_root(leaves[::-1])


def test_an_inner_node_never_passes_for_a_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    left = merkle_root(leaves[:2])
    assert merkle_root([left, merkle_root(leaves[2:])]) != merkle_root(leaves)
    parent = leaf_digest(b"a") + leaf_digest(b"b")
    assert not merkle_check(merkle_root(leaves), 2, 0, parent, (merkle_root(leaves[2:]),))


def test_no_leaves_have_a_root_of_their_own() -> None:
    assert merkle_root([]) == EMPTY_ROOT == digest("empty")
    assert not merkle_check(EMPTY_ROOT, 0, 0, b"", ())


def test_a_path_in_the_largest_tree_fits_its_bound() -> None:
    assert max(SHARDS_MAX, STATE_PIECES_MAX) <= 1 << PROOF_MAX

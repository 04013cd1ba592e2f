"""protocol/envelope.md: a signature holds for one signer, one swarm and one statement."""

from dataclasses import replace

import pytest
import wire_strategies as some
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.codec import encode_part
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.envelope import (
    Ed25519Signer,
    Ed25519Verifier,
    check_signed,
    sign_statement,
    signing_bytes,
    statement_bytes,
    swarm_digest,
)
from p2ptrain.wire.limits import SIGNATURES_CACHED
from p2ptrain.wire.messages import Join, Leave, Vote

ALICE, BOB = Ed25519Signer(b"a" * 32), Ed25519Signer(b"b" * 32)
SWARM, OTHER = swarm_digest(cid_of(b"one")), swarm_digest(cid_of(b"two"))


@settings(max_examples=30)
@given(statement=some.statements | some.timeouts | some.proposals)
def test_a_signed_statement_passes_in_its_own_swarm_alone(statement: Vote) -> None:
    verifier = Ed25519Verifier()
    signed = sign_statement(ALICE, SWARM, statement)
    assert signed.signer == ALICE.peer
    for _ in range(2):  # the second time from memory
        check_signed(verifier, SWARM, signed, BOB.peer)
    wrong = [
        (OTHER, signed),
        (SWARM, replace(signed, signer=BOB.peer)),
        (SWARM, replace(signed, statement=Leave(digest("no strategy finds this")))),
        (SWARM, replace(signed, signature=bytes(64))),
    ]
    for swarm, forged in wrong:
        with pytest.raises(RemoteProtocolError) as caught:
            check_signed(verifier, swarm, forged, BOB.peer)
        assert (caught.value.peer, caught.value.rule) == (BOB.peer, "envelope 3.1")


@given(place=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_changed_bit_of_a_signature_passes(place: int, bit: int) -> None:
    data = b"what is signed"
    signature = bytearray(ALICE.sign(data))
    signature[place] ^= 1 << bit
    assert not Ed25519Verifier().verify(ALICE.peer, data, bytes(signature))


def test_a_signature_with_its_scalar_above_the_order_is_refused() -> None:
    """S + L signs the same thing in a lax verifier: a second certificate for one vote."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = ALICE.sign(b"x")
    scalar = int.from_bytes(signature[32:], "little") + order
    second = signature[:32] + scalar.to_bytes(32, "little")
    assert Ed25519Verifier().verify(ALICE.peer, b"x", signature)
    assert not Ed25519Verifier().verify(ALICE.peer, b"x", second)


def test_what_is_signed_is_the_domain_the_swarm_and_the_statement_behind_their_lengths() -> None:
    join = Join(Digest(b"t" * 32), Digest(b"a" * 32), 5)
    part = encode_part(join)
    assert statement_bytes(SWARM, join) == b"".join([
        (20).to_bytes(8, "little"), b"p2ptrain/1/statement",
        (32).to_bytes(8, "little"), SWARM,
        len(part).to_bytes(8, "little"), part,
    ])  # fmt: skip
    assert signing_bytes("other", SWARM, join) != statement_bytes(SWARM, join)


def test_rfc_8032_test_vector_2() -> None:
    """https://www.rfc-editor.org/rfc/rfc8032#section-7.1"""
    key = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    signer = Ed25519Signer(bytes.fromhex(key))
    assert signer.sign(b"\x72") == signature
    assert Ed25519Verifier().verify(signer.peer, b"\x72", signature)


def test_the_memory_of_good_signatures_is_bounded() -> None:
    verifier = Ed25519Verifier()
    for i in range(SIGNATURES_CACHED + 10):
        verifier._verified[Digest(i.to_bytes(32, "big"))] = None
    assert verifier.verify(ALICE.peer, b"x", ALICE.sign(b"x"))
    assert not verifier.verify(ALICE.peer, b"y", ALICE.sign(b"x"))
    assert len(verifier._verified) <= SIGNATURES_CACHED + 10

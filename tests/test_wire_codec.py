"""protocol/encoding.md as properties: one encoding a value, and every other byte refused."""

import tracemalloc
from typing import Any, get_args, get_type_hints

import msgpack
import pytest
import wire_strategies as some
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.effects import CommitRecord, VoteRecord
from p2ptrain.wire import statements
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.codec import (
    CODES,
    block_digest,
    certificate_digest,
    commit_digest,
    decode,
    encode,
    encode_part,
    pack,
    unpack,
)
from p2ptrain.wire.limits import CHUNK_BYTES_MAX, FRAME_BYTES_MAX
from p2ptrain.wire.messages import (
    Blob,
    Block,
    Certificate,
    Commit,
    GetBlob,
    GetTip,
    Goodbye,
    Hello,
    Message,
    Statement,
)

SENDER = some.PEERS[0]


def refused(data: bytes, rule: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, SENDER)
    assert (caught.value.peer, caught.value.rule) == (SENDER, f"encoding {rule}")


def decoded_or_refused(data: bytes) -> Message | None:
    """The message, or None after a refusal; any other exception fails the test."""
    try:
        return decode(data, SENDER)
    except RemoteProtocolError:
        return None


@given(message=some.messages)
def test_what_was_encoded_is_decoded(message: Message) -> None:
    assert decode(encode(message), SENDER) == message


@given(message=some.messages)
def test_the_bytes_are_the_shortest_messagepack(message: Message) -> None:
    """An independent packer, given what an independent reader finds, writes the same bytes."""
    data = encode(message)
    tree = msgpack.unpackb(data)
    assert msgpack.packb(tree, use_bin_type=True) == data
    assert tree[0] == CODES[type(message)]


@given(message=some.messages, data=st.data())
def test_a_changed_byte_is_refused_or_means_something_else(message: Message, data: Any) -> None:
    good = bytearray(encode(message))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    other = decoded_or_refused(bytes(good))
    assert other is None or (other != message and encode(other) == bytes(good))


@given(message=some.messages, data=st.data())
def test_a_message_cut_anywhere_is_refused(message: Message, data: Any) -> None:
    good = encode(message)
    with pytest.raises(RemoteProtocolError):
        decode(good[: data.draw(st.integers(0, len(good) - 1))], SENDER)
    refused(good + data.draw(st.binary(min_size=1, max_size=3)), "3.2")


@given(head=st.sampled_from(sorted(CODES.values())), rest=st.binary(max_size=200), size=st.data())
def test_random_bytes_never_do_worse_than_a_refusal(head: int, rest: bytes, size: Any) -> None:
    for data in (rest, bytes([0x90 | size.draw(st.integers(0, 15)), head]) + rest):
        message = decoded_or_refused(data)
        assert message is None or encode(message) == data


HOSTILE = {
    "nested arrays": b"\x91" * FRAME_BYTES_MAX,
    "nested messages": b"\x92\x20" * (FRAME_BYTES_MAX // 2),
    "a long list of nothing": b"\x93\x33\xc4\x20" + bytes(32) + b"\xdc\xff\xff" + b"\x90" * 65_535,
    "a blob that announces 4 GiB": encode(Blob(cid_of(b""), b""))[:-2] + b"\xc6\xff\xff\xff\xff",
    "a million nils": b"\xdd\x00\x10\x00\x00" + b"\xc0" * (1 << 20),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_cost_no_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode(data, SENDER)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_each_rule_of_refusal() -> None:
    tip = encode(GetTip(7))
    assert tip == b"\x92\x30\x07"
    refused(b"", "3.1")
    refused(b"\x92", "3.1")
    refused(b"\x92\x30\xcd\x01", "3.1")
    refused(tip + b"\x00", "3.2")
    refused(b"\x92\x30\xff", "3.3")  # a negative integer
    refused(b"\x92\x30\xa1a", "3.3")
    refused(b"\xa1a", "3.3")
    refused(b"\x92\x30\xcc\x07", "3.4")
    refused(b"\x92\x30\xcf" + (1 << 63).to_bytes(8, "big"), "3.5")
    refused(b"\x93\x30\x07\x07", "3.6")
    refused(b"\xdc\x00\x02\x30\x07", "3.3")  # a longer head for two elements
    refused(b"\x92\x7f\x07", "3.8")
    refused(b"\x92\xd0\x07", "3.8")
    refused(b"\x92\x11\xa1\xff", "3.10")
    refused(b"\x92\x11\xda\x02\x01" + b"a" * 513, "3.7")
    refused(b"\x92\x11\xd9\x01a", "3.4")
    refused(encode(GetBlob(cid_of(b"")))[:-1] + b"!", "3.11")
    refused(bytes(FRAME_BYTES_MAX + 1), "3.12")


def test_a_peer_id_has_one_spelling() -> None:
    vote = statements.Vote(1, *(4 * (bytes(32),)))  # type: ignore[arg-type]
    data = encode(Statement(statements.Signed(some.PEERS[3], bytes(64), vote)))
    text = some.PEERS[3].encode()
    for other in (text[:-1] + b"0", text[:-1] + b" ", b"1" * 52, bytes(52), b"\xff" * 52):
        refused(data.replace(text, other), "3.9")


def test_statements_of_the_wrong_kind_are_unknown() -> None:
    """A Proposal holds Timeouts, never Proposals: the depth of a message is finite."""
    vote = statements.Vote(1, *(4 * (bytes(32),)))  # type: ignore[arg-type]
    data = encode(Statement(statements.Signed(some.PEERS[3], bytes(64), vote)))
    for message in (b"\x93\x21", b"\x93\x22"):  # as Propose, as GiveUp: Signed, certificate
        refused(message + data[2:] + b"\xc0", "3.8")


def test_every_message_has_a_code_and_no_two_share_one() -> None:
    kinds = get_args(get_type_hints(statements.Signed)["statement"]) + get_args(Message)
    assert set(CODES) == set(kinds)
    assert len(set(CODES.values())) == len(CODES)
    assert max(CODES.values()) < 128  # one byte


@given(block=some.blocks, hello=some.hellos, view=some.views)
def test_records_are_packed_without_a_code(block: Block, hello: Hello, view: int) -> None:
    for record in (block, hello, VoteRecord(view, view, block), VoteRecord(0, 0, None)):
        assert unpack(type(record), pack(record)) == record


@given(signed=some.signed(some.commits), shards=st.lists(st.binary(max_size=99)).map(tuple))
def test_our_own_contribution_is_a_record(signed: Any, shards: Any) -> None:
    record = CommitRecord(signed, shards)
    assert unpack(CommitRecord, pack(record)) == record
    with pytest.raises(ValueError, match="behind the end"):
        unpack(CommitRecord, pack(record) + b"\x00")


@given(one=some.commits, other=some.commits, certificate=some.certificates)
def test_digests_tell_apart(one: Commit, other: Commit, certificate: Certificate) -> None:
    assert (commit_digest(one) == commit_digest(other)) == (one == other)
    assert certificate_digest(certificate) != block_digest(certificate.block)
    assert encode_part(one)[1] == CODES[Commit]


@pytest.mark.parametrize(
    "bad",
    [
        GetTip(-1),
        GetTip(1 << 63),
        Goodbye("x" * 1000),
        Goodbye("\ud800"),
        Blob(cid_of(b""), bytes(CHUNK_BYTES_MAX + 1)),
    ],
    ids=lambda bad: type(bad).__name__,
)
def test_our_own_breach_of_a_bound_is_not_sent(bad: Message) -> None:
    with pytest.raises(ValueError, match=r"wire|bytes|surrogates"):
        encode(bad)


@settings(max_examples=20)
@given(size=st.integers(CHUNK_BYTES_MAX - 2, CHUNK_BYTES_MAX))
def test_the_largest_chunk_fits_one_frame(size: int) -> None:
    blob = Blob(cid_of(b""), bytes(size))
    assert decode(encode(blob), SENDER) == blob

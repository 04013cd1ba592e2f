"""CIDs: the names that IPFS gives to the same bytes. protocol/encoding.md section 5."""

import pytest
from cid import make_cid  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.wire.cid import cid_of, cid_of_sha256, parse_cid, sha256_of

# `printf ... | ipfs add --cid-version 1 --raw-leaves`
VECTORS = {
    b"": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    b"hello world": "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
}


@pytest.mark.parametrize(("content", "expected"), VECTORS.items())
def test_the_names_are_those_of_kubo(content: bytes, expected: str) -> None:
    assert cid_of(content) == expected


@given(st.binary(max_size=64))
def test_another_implementation_reads_the_same_hash(content: bytes) -> None:
    cid = cid_of(content)
    theirs = make_cid(cid)
    assert (theirs.version, theirs.codec) == (1, "raw")
    assert theirs.multihash == b"\x12\x20" + sha256_of(cid)
    assert parse_cid(cid) == cid == cid_of_sha256(sha256_of(cid))


GOOD = VECTORS[b""]


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.upper(),
        "B" + GOOD[1:],
        GOOD[:-1],
        GOOD + "a",
        GOOD[:-1] + "v",  # spare bits set
        GOOD[:-1] + "1",  # not base32
        "b" + "\u00e9" * 58,
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKQkUE",  # version 0
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",  # dag-pb
        "../../../../../../../../../../../../../../../../../etc/passwd",
    ],
)
def test_whatever_is_not_the_one_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="CID"):
        parse_cid(text)

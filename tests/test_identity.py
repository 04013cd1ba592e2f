"""The identity file is made once, kept private, and never guessed at when it is damaged."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from full_disk import file_size_limit
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from p2ptrain.errors import StoreError
from p2ptrain.net.identity import identity_of, load_or_create
from p2ptrain.wire.peer_id import peer_id_in, peer_id_of, public_key_of

SEED = bytes(range(32))
PEER = "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"


def test_the_first_run_makes_an_identity_and_later_runs_find_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "identity.pem"
    made = load_or_create(path)
    assert load_or_create(path) == made
    assert load_or_create(tmp_path / "other.pem") != made


def test_only_the_owner_can_read_the_file_and_no_draft_is_left(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_others_can_read_is_refused_with_the_command_that_mends_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "identity.pem"
    load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(StoreError, match=f"chmod 600 {path}"):
        load_or_create(path)


@pytest.mark.parametrize("content", [b"", b"no key", b"\x00" * 1000])
def test_a_damaged_file_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreError, match="holds no usable key"):
        load_or_create(path)
    assert path.read_bytes() == content


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    load_or_create(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(StoreError, match="holds no usable key"):
        load_or_create(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(StoreError, match="another kind than Ed25519"):
        load_or_create(path)


def test_an_unusable_place_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="--home"):
        load_or_create(tmp_path / "file" / "identity.pem")
    with pytest.raises(StoreError, match="cannot be used"):
        load_or_create(tmp_path)


def test_the_private_key_is_not_in_the_repr() -> None:
    assert "\\x" not in repr(identity_of(SEED))
    assert PEER in repr(identity_of(SEED))


# --- peer ids --------------------------------------------------------------------------------


def test_the_peer_id_of_a_known_key_is_the_one_that_libp2p_gives() -> None:
    assert identity_of(SEED).peer_id == PEER
    assert str(ID.from_pubkey(create_new_key_pair(SEED).public_key)) == PEER


@given(st.binary(min_size=32, max_size=32))
def test_a_public_key_comes_back_out_of_its_peer_id(public_key: bytes) -> None:
    assert public_key_of(peer_id_of(public_key)) == public_key


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_keys_of_32_bytes_have_peer_ids(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        peer_id_of(bytes(size))


@pytest.mark.parametrize(
    "text",
    [
        "",
        PEER[:-1],
        PEER + "1",
        PEER[:-1] + " ",
        PEER[:-1] + "0",  # not a digit of base58
        PEER[:-1] + "é",
        "z" * 52,  # another prefix, too many bytes
        "1" * 52,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # a hashed RSA key
    ],
)
def test_whatever_is_not_the_canonical_text_of_an_ed25519_peer_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        public_key_of(text)


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader_of_peer_ids(text: str) -> None:
    try:
        key = public_key_of(text)
    except ValueError:
        return
    assert peer_id_of(key) == text


def test_a_full_address_ends_in_a_peer_id() -> None:
    assert peer_id_in(f"/ip4/10.0.0.1/tcp/4001/p2p/{PEER}") == PEER
    for address in ("", "/ip4/10.0.0.1/tcp/4001", f"{PEER}", f"/p2p/{PEER}/p2p-circuit"):
        with pytest.raises(ValueError, match=r".+"):
            peer_id_in(address)


def test_the_file_is_plain_pkcs8_that_other_programs_read(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    assert load_or_create(path) == identity_of(SEED)


def test_no_flipped_bit_of_the_file_makes_another_peer(tmp_path: Path) -> None:
    """Any 32 bytes are a key: it once took a changed one for its own."""
    path = tmp_path / "identity.pem"
    made = load_or_create(path)
    content = path.read_bytes()
    for at in range(len(content)):
        for bit in (0, 5):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                assert load_or_create(path) == made, (at, bit)
            except StoreError as error:
                assert "Restore it from a copy" in str(error)  # noqa: PT017 (either will do)


@pytest.mark.parametrize("place", ["identity.pem", "."])
def test_a_folder_or_a_file_in_the_way_is_named_with_what_to_do(tmp_path: Path, place: str) -> None:
    path = tmp_path / "config" / "identity.pem"
    if place == ".":
        path.parent.write_text("a file where the folder should be")
    else:
        path.mkdir(parents=True)
    with pytest.raises(StoreError, match="choose another with --home"):
        load_or_create(path)


def test_a_full_disk_makes_no_half_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    with file_size_limit(100), pytest.raises(StoreError, match="--home"):
        load_or_create(path)
    assert list(tmp_path.iterdir()) == []
    load_or_create(path)

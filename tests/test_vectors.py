"""Every vector of protocol/vectors, accepted and rejected, and every schema of protocol/*.md."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from wire_json import KINDS, from_json, schema_of, to_json

from p2ptrain.data.chunks import permutation
from p2ptrain.data.manifest import Manifest
from p2ptrain.data.sampler import assigned, noise_of, window
from p2ptrain.data.text import TextOptions, text_records
from p2ptrain.data.tokenisers import Tokeniser
from p2ptrain.data.weights import Tensors, WeightsManifest, load_weights
from p2ptrain.errors import ConfigError, RemoteProtocolError
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.wire.cid import cid_of, sha256_of
from p2ptrain.wire.codec import (
    block_digest,
    certificate_digest,
    commit_digest,
    decode,
    encode,
    pack,
    unpack,
)
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.document import pack_document, unpack_document
from p2ptrain.wire.envelope import (
    Ed25519Signer,
    Ed25519Verifier,
    check_signed,
    sign_statement,
    statement_bytes,
    swarm_digest,
)
from p2ptrain.wire.peer_id import peer_id_of
from p2ptrain.wire.shards import merkle_check, merkle_proofs, merkle_root

PROTOCOL = Path(__file__).parents[1] / "protocol"
SENDER = peer_id_of(bytes(32))
WEIGHTS = json.loads((PROTOCOL / "vectors" / "data.json").read_text())["weights"][0]


def vectors(file: str, section: str) -> pytest.MarkDecorator:
    """Parametrize by the vectors of one section."""
    found = json.loads((PROTOCOL / "vectors" / f"{file}.json").read_text())[section]
    ids = [str(vector.get("name", i)) for i, vector in enumerate(found)]
    return pytest.mark.parametrize("vector", found, ids=ids)


def unhex(items: list[str]) -> list[bytes]:
    return [bytes.fromhex(item) for item in items]


@vectors("encoding", "accepted")
def test_a_message_has_these_bytes(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    message = from_json(vector["message"])
    assert encode(message) == data
    assert decode(data, SENDER) == message
    assert to_json(message) == vector["message"]


@vectors("encoding", "parts")
def test_a_part_has_these_bytes(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    part = from_json(vector["part"])
    assert pack(part) == data
    assert unpack(type(part), data) == part


@vectors("encoding", "rejected")
def test_bytes_are_refused_by_this_rule(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"]) if "hex" in vector else bytes(vector["zeros"])
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, SENDER)
    assert (caught.value.peer, caught.value.rule) == (SENDER, vector["rule"])


def test_every_kind_of_message_and_every_rule_has_a_vector() -> None:
    file = json.loads((PROTOCOL / "vectors" / "encoding.json").read_text())
    text = json.dumps([file["accepted"], file["parts"]])
    assert not [name for name in KINDS if f'{{"{name}": ' not in text]
    rules = {vector["rule"] for vector in file["rejected"]}
    assert rules == {f"encoding 3.{n}" for n in range(1, 13)}


@vectors("digests", "digests")
def test_a_digest_is_blake3_of_domain_and_parts(vector: Any) -> None:
    parts = unhex(vector["parts"])
    assert digest(vector["domain"], *parts).hex() == vector["digest"]
    hashed = b"p2ptrain/1/" + vector["domain"].encode() + b"\n"
    hashed += b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    assert blake3(hashed).hexdigest() == vector["digest"]


@vectors("digests", "blocks")
def test_a_block_has_this_digest(vector: Any) -> None:
    block = from_json(vector["block"])
    assert pack(block).hex() == vector["packed"]
    assert block_digest(block).hex() == vector["digest"]
    assert digest("block", bytes.fromhex(vector["packed"])).hex() == vector["digest"]


@vectors("digests", "commits")
def test_a_commit_has_this_digest(vector: Any) -> None:
    assert commit_digest(from_json(vector["commit"])).hex() == vector["digest"]


@vectors("digests", "certificates")
def test_a_certificate_has_this_digest(vector: Any) -> None:
    assert certificate_digest(from_json(vector["certificate"])).hex() == vector["digest"]


@vectors("digests", "reveals")
def test_a_hash_chain_ends_in_this_anchor(vector: Any) -> None:
    seed = Digest(bytes.fromhex(vector["seed"]))
    assert Reveals(seed, vector["length"]).anchor.hex() == vector["anchor"]


@vectors("digests", "cids")
def test_content_has_this_cid(vector: Any) -> None:
    content = bytes.fromhex(vector["content"])
    assert cid_of(content) == vector["cid"]
    assert sha256_of(vector["cid"]) == hashlib.sha256(content).digest()


@vectors("digests", "peers")
def test_a_key_has_this_peer_id(vector: Any) -> None:
    assert Ed25519Signer(bytes.fromhex(vector["private_key"])).peer == vector["peer"]


@vectors("envelope", "accepted")
def test_a_statement_is_signed_so(vector: Any) -> None:
    swarm = swarm_digest(vector["swarm_id"])
    signed = from_json(vector["signed"])
    signer = Ed25519Signer(bytes.fromhex(vector["private_key"]))
    assert statement_bytes(swarm, signed.statement).hex() == vector["signing_bytes"]
    assert sign_statement(signer, swarm, signed.statement) == signed
    check_signed(Ed25519Verifier(), swarm, signed, SENDER)


@vectors("envelope", "rejected")
def test_an_envelope_is_refused_by_this_rule(vector: Any) -> None:
    signed = from_json(vector["signed"])
    with pytest.raises(RemoteProtocolError) as caught:
        check_signed(Ed25519Verifier(), swarm_digest(vector["swarm_id"]), signed, SENDER)
    assert (caught.value.peer, caught.value.rule) == (SENDER, vector["rule"])


@vectors("merkle", "accepted")
def test_a_tree_has_this_root_and_these_paths(vector: Any) -> None:
    leaves = unhex(vector["leaves"])
    root = merkle_root(leaves)
    assert root.hex() == vector["root"]
    paths = [tuple(unhex(path)) for path in vector["proofs"]]
    assert merkle_proofs(leaves) == paths
    for index, (leaf, path) in enumerate(zip(leaves, paths, strict=True)):
        assert merkle_check(root, len(leaves), index, leaf, path)  # type: ignore[arg-type]


@vectors("merkle", "rejected")
def test_a_path_is_refused(vector: Any) -> None:
    root, leaf = Digest(bytes.fromhex(vector["root"])), bytes.fromhex(vector["leaf"])
    path: Any = tuple(unhex(vector["proof"]))
    assert not merkle_check(root, vector["count"], vector["index"], leaf, path)


@vectors("documents", "accepted")
def test_a_document_has_these_bytes(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    assert pack_document(vector["value"]) == data
    value = unpack_document(data)
    # As text, where 1, 1.0 and true are not equal.
    assert json.dumps(value) == json.dumps(vector["value"], sort_keys=True)


@vectors("documents", "rejected")
def test_bytes_are_no_document(vector: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        unpack_document(bytes.fromhex(vector["hex"]))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_the_documents_show_the_schema_of(kind: type) -> None:
    documents = "".join(path.read_text() for path in PROTOCOL.glob("*.md"))
    assert f"```\n{schema_of(kind)}\n```" in documents


def test_every_rule_that_an_error_names_stands_in_its_document() -> None:
    named = set()
    for path in sorted((PROTOCOL.parent / "p2ptrain").rglob("*.py")):
        named |= set(re.findall(r'"([a-z]+) (\d+\.\d+)"', path.read_text()))
    missing = [
        f"{document} {rule}"
        for document, rule in sorted(named)
        if f"| {rule} |" not in (PROTOCOL / f"{document}.md").read_text()
    ]
    assert named
    assert not missing


@vectors("data", "manifests")
def test_a_manifest_has_these_bytes_and_this_cid(vector: Any) -> None:
    manifest = Manifest.from_canonical(bytes.fromhex(vector["hex"]))
    assert manifest.canonical.hex() == vector["hex"]
    assert manifest.cid == vector["cid"]


@vectors("data", "manifests_rejected")
def test_a_manifest_is_refused(vector: Any) -> None:
    with pytest.raises(ConfigError, match="no manifest"):
        Manifest.from_canonical(bytes.fromhex(vector["hex"]))


@vectors("data", "texts")
def test_a_text_has_these_tokens(vector: Any) -> None:
    options = TextOptions(vector["tokeniser"], vector["test_thousandths"] / 1000)
    records = text_records("text", [("text", vector["text"].encode())], options)
    assert records.tokeniser == Tokeniser(vector["tokeniser"], vector["vocabulary"])
    assert {split.name: split.x.tolist() for split in records.splits} == vector["splits"]
    for split in records.splits:
        starts = range(len(split.x) - vector["context"])  # the last target is inside
        assert len(starts) == vector["samples"][split.name]


@vectors("data", "orders")
def test_records_are_put_into_this_order(vector: Any) -> None:
    count = vector["count"]
    assert permutation(count).tolist() == vector["order"]
    stream = blake3(b"p2ptrain/1/shuffle" + count.to_bytes(8, "little")).digest(8 * count)
    keys = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(count)]
    assert sorted(range(count), key=lambda i: (keys[i], i)) == vector["order"]


@vectors("data", "windows")
def test_a_peer_draws_from_this_window(vector: Any) -> None:
    beacon = Digest(bytes.fromhex(vector["beacon"]))
    assert window(beacon, vector["peer"], vector["chunks"]).tolist() == vector["window"]


@vectors("data", "draws")
def test_a_peer_trains_on_these_records(vector: Any) -> None:
    beacon = Digest(bytes.fromhex(vector["beacon"]))
    steps, batch = len(vector["indices"]), len(vector["indices"][0])
    indices = assigned(beacon, vector["peer"], vector["records"], steps, batch)
    assert indices.tolist() == vector["indices"]
    assert digest("samples", indices.astype("<i4").tobytes()).hex() == vector["data"]


@vectors("data", "noises")
def test_the_random_draws_of_a_round_have_this_key(vector: Any) -> None:
    beacon = Digest(bytes.fromhex(vector["beacon"]))
    assert noise_of(beacon, vector["peer"]).to_bytes(8, "little").hex() == vector["noise"]


def weights_of(vector: Any, network: Tensors) -> bytes:
    """What a reader does with a manifest and its blocks."""
    manifest = WeightsManifest.from_canonical(bytes.fromhex(vector["hex"]))
    manifest.check_fits(network)
    blocks = [bytes.fromhex(text) * times for text, times in vector.get("blocks", ())]
    return load_weights(manifest, {cid_of(block): block for block in blocks}.get)


@vectors("data", "weights")
def test_weights_have_this_manifest_and_these_blocks(vector: Any) -> None:
    manifest = WeightsManifest.from_canonical(bytes.fromhex(vector["hex"]))
    assert manifest.canonical.hex() == vector["hex"]
    assert manifest.cid == vector["cid"]
    content = b"".join(bytes.fromhex(text) * times for text, times in vector["blocks"])
    assert weights_of(vector, manifest.shapes) == content


@vectors("data", "weights_rejected")
def test_weights_are_refused(vector: Any) -> None:
    network = WeightsManifest.from_canonical(bytes.fromhex(WEIGHTS["hex"])).shapes
    with pytest.raises(ConfigError, match=r"ask (its|the) founder for another"):
        weights_of(vector, network)

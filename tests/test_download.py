"""protocol/catchup.md sections 3 to 5: fetching checked items from many peers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.download import (
    Answer,
    Download,
    Got,
    Progress,
    Request,
    blobs_wanted,
    pieces_wanted,
    shards_wanted,
)
from p2ptrain.swarm.effects import Send
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.digest import digest
from p2ptrain.wire.messages import (
    Blob,
    GetBlob,
    GetState,
    NotHeld,
    ReducedPiece,
    StatePiece,
)
from p2ptrain.wire.peer_id import PeerId, peer_id_of
from p2ptrain.wire.shards import merkle_proof, merkle_root

A, B, C = sorted(peer_id_of(digest("peer", bytes([i]))) for i in range(3))
BLOBS = {cid_of(data): data for data in (b"one", b"two", b"three", b"four", b"five")}
BLOCK = digest("block", b"")


def blob_of(request: Request) -> Blob:
    assert isinstance(request, GetBlob)
    return Blob(request.cid, next(data for cid, data in BLOBS.items() if cid == request.cid))


def requests(effects: list[Send | Got]) -> list[tuple[PeerId, Request]]:
    found = [(e.to, e.message) for e in effects if isinstance(e, Send)]
    return [(peer, r) for peer, r in found if isinstance(r, Request)]


def started(peers: tuple[PeerId, ...], *, in_flight_max: int = 4) -> tuple[Download, list[Send]]:
    machine = Download(in_flight_max=in_flight_max, timeout_s=10.0)
    machine.peers(0.0, peers)
    return machine, machine.want(0.0, blobs_wanted(BLOBS))


def test_items_are_spread_over_peers_and_no_peer_has_more_than_its_share() -> None:
    _, sends = started((A, B), in_flight_max=2)
    assert sorted(peer for peer, _ in requests([*sends])) == [A, A, B, B]


def test_an_item_is_handed_out_when_it_comes_and_the_next_is_asked_for() -> None:
    machine, sends = started((A,), in_flight_max=1)
    (peer, request) = requests([*sends])[0]
    got, send = machine.receive(1.0, peer, blob_of(request))
    assert isinstance(got, Got)
    assert got.request == request
    assert isinstance(send, Send)
    assert machine.progress == Progress(1, 5, len(got.answer.data))


def test_not_held_sends_the_request_to_another_peer() -> None:
    machine, sends = started((A, B), in_flight_max=1)
    asked = dict(requests([*sends]))
    again = requests(machine.receive(1.0, A, NotHeld(asked[A])))
    assert (A, asked[A]) not in again
    moved = requests(machine.receive(1.0, B, blob_of(asked[B])))
    assert (B, asked[A]) not in again
    assert {r for _, r in again + moved} <= {GetBlob(cid) for cid in BLOBS}


def test_a_silent_peer_loses_its_requests_after_the_timeout() -> None:
    machine = Download(timeout_s=10.0)
    machine.peers(0.0, (A,))
    sends = machine.want(0.0, blobs_wanted([next(iter(BLOBS))]))
    assert machine.deadline == 10.0
    machine.peers(1.0, (A, B))
    assert requests([*machine.expire(10.0)]) == [(B, requests([*sends])[0][1])]


def test_a_lost_peer_loses_its_requests_at_once() -> None:
    machine, sends = started((A,))
    owed = [request for _, request in requests([*sends])]
    machine.peers(1.0, (A, B))
    assert {r for _, r in requests([*machine.lost(2.0, A)])} <= {*owed, *map(GetBlob, BLOBS)}
    assert machine.progress.done == 0


def test_when_everyone_refused_everyone_is_asked_again_later() -> None:
    machine = Download(timeout_s=10.0)
    machine.peers(0.0, (A,))
    (send,) = machine.want(0.0, blobs_wanted([next(iter(BLOBS))]))
    assert isinstance(send.message, GetBlob)
    assert machine.receive(1.0, A, NotHeld(send.message)) == []
    assert machine.dry == 1
    assert machine.expire(machine.deadline) == [send]


def test_resuming_means_asking_for_less() -> None:
    machine = Download()
    machine.peers(0.0, (A,))
    missing = list(BLOBS)[3:]
    assert {r for _, r in requests([*machine.want(0.0, blobs_wanted(missing))])} == {
        GetBlob(cid) for cid in missing
    }


@pytest.mark.parametrize("kind", ["blob", "state", "reduced"])
def test_wrong_bytes_are_refused_by_rule_and_change_nothing(kind: str) -> None:
    """Sections 3.1, 4.1, 5.1."""
    parts = (b"a", b"b", b"c")
    root, proof = merkle_root(parts), merkle_proof(parts, 1)
    cid = cid_of(b"a")
    cases: dict[str, tuple[dict[Request, object], Answer, Answer, str]] = {
        "blob": ({**blobs_wanted([cid])}, Blob(cid, b"b"), Blob(cid, b"a"), "catchup 5.1"),
        "state": (
            {**pieces_wanted(BLOCK, root, 3)},
            StatePiece(BLOCK, 1, proof, b"x"),
            StatePiece(BLOCK, 1, proof, b"b"),
            "catchup 3.1",
        ),
        "reduced": (
            {**shards_wanted(BLOCK, root, 3)},
            ReducedPiece(BLOCK, 2, proof, b"b"),
            ReducedPiece(BLOCK, 1, proof, b"b"),
            "catchup 4.1",
        ),
    }
    wanted, wrong, right, rule = cases[kind]
    machine = Download()
    machine.peers(0.0, (A,))
    machine.want(0.0, wanted)  # type: ignore[arg-type]
    deadline = machine.deadline
    with pytest.raises(RemoteProtocolError, match=rule) as caught:
        machine.receive(1.0, A, wrong)
    assert caught.value.peer == A
    assert machine.deadline == deadline
    assert isinstance(machine.receive(1.0, A, right)[0], Got)


def test_an_answer_that_nobody_asked_for_is_ignored() -> None:
    machine, _ = started((A,))
    assert machine.receive(1.0, B, Blob(cid_of(b"other"), b"other")) == []
    assert machine.receive(1.0, B, NotHeld(GetState(BLOCK, 0))) == []


def test_a_late_answer_counts_and_is_not_asked_for_again() -> None:
    machine = Download(timeout_s=1.0)
    machine.peers(0.0, (A,))
    (send,) = machine.want(0.0, blobs_wanted([next(iter(BLOBS))]))
    machine.expire(1.0)
    assert isinstance(machine.receive(1.5, A, blob_of(send.message))[0], Got)  # type: ignore[arg-type]
    assert machine.finished
    assert machine.deadline == float("inf")


@given(seed=st.integers(0, 2**32 - 1), holders=st.integers(1, 7))
def test_everything_comes_while_one_honest_peer_holds_it(seed: int, holders: int) -> None:
    """Peers may refuse, be silent, or lie; each item is held by at least one that answers."""
    rng = random.Random(seed)
    holds = {p: {c for c in BLOBS if rng.random() < holders / 7} for p in (A, B)}
    holds[C] = {c for c in BLOBS if c not in holds[A] | holds[B]} or set(BLOBS)
    machine, sends = started((A, B, C), in_flight_max=2)
    todo, now, got = [*requests([*sends])], 0.0, set()
    for _ in range(2000):
        if machine.finished:
            break
        if not todo or rng.random() < 0.1:
            now = max(now, machine.deadline)
            todo += requests([*machine.expire(now)])
            continue
        peer, request = todo.pop(rng.randrange(len(todo)))
        assert isinstance(request, GetBlob)
        answer = blob_of(request) if request.cid in holds[peer] else NotHeld(request)
        if rng.random() < 0.2:
            continue  # lost
        effects = machine.receive(now, peer, answer)
        got |= {e.request for e in effects if isinstance(e, Got)}
        todo += requests(effects)
    assert got == {GetBlob(cid) for cid in BLOBS}

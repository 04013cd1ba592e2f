"""Content comes as an answer, or it is a fault."""

import pytest

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.net.identity import identity_of
from p2ptrain.node.asked import Asked
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.digest import digest
from p2ptrain.wire.limits import PEERS_REMEMBERED
from p2ptrain.wire.messages import (
    Blob,
    GetBlob,
    GetHeaders,
    GetReduced,
    GetState,
    GetTip,
    Headers,
    Message,
    NotHeld,
    ReducedPiece,
    StatePiece,
    Tip,
)

ALICE, BOB = (identity_of(bytes([n]) * 32).peer_id for n in (1, 2))
CID, BLOCK = cid_of(b"x"), digest("block")
EXCHANGES: list[tuple[Message, Message]] = [
    (GetBlob(CID), Blob(CID, b"x")),
    (GetState(BLOCK, 0), StatePiece(BLOCK, 0, (), b"x")),
    (GetReduced(BLOCK, 0), ReducedPiece(BLOCK, 0, (), b"x")),
    (GetHeaders((BLOCK,), 1), Headers(BLOCK, ())),
]


@pytest.mark.parametrize(("request_", "answer"), EXCHANGES)
def test_each_request_entitles_one_peer_to_one_answer(request_: Message, answer: Message) -> None:
    asked = Asked()
    asked.sent(ALICE, request_)
    asked.received(ALICE, answer)
    for peer in (ALICE, BOB):
        with pytest.raises(RemoteProtocolError, match="that nobody asked for") as caught:
            asked.received(peer, answer)
        assert (caught.value.peer, caught.value.rule) == (peer, "catchup 6.1")


@pytest.mark.parametrize(("request_", "answer"), EXCHANGES)
def test_what_was_refused_is_not_due_any_more(request_: Message, answer: Message) -> None:
    asked = Asked()
    asked.sent(ALICE, request_)
    asked.received(ALICE, NotHeld(request_))  # type: ignore[arg-type]
    asked.received(ALICE, NotHeld(request_))  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError):
        asked.received(ALICE, answer)


def test_small_talk_needs_no_request_and_gives_no_right_to_content() -> None:
    asked = Asked()
    asked.sent(ALICE, GetTip(1))
    asked.received(ALICE, Tip(None, 0, ()))
    asked.received(BOB, Tip(None, 0, ()))
    with pytest.raises(RemoteProtocolError):
        asked.received(ALICE, Headers(BLOCK, ()))


def test_only_the_peers_asked_last_are_remembered() -> None:
    asked = Asked()
    asked.sent(ALICE, GetBlob(CID))
    for number in range(PEERS_REMEMBERED):
        asked.sent(identity_of(number.to_bytes(32, "big")).peer_id, GetBlob(CID))
    with pytest.raises(RemoteProtocolError):
        asked.received(ALICE, Blob(CID, b"x"))

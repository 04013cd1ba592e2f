"""The address book: what is remembered of peers, for how long, and what a damaged file costs."""

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from full_disk import file_size_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import StoreError
from p2ptrain.net.identity import identity_of
from p2ptrain.store.address_book import (
    DAMAGED_SUFFIX,
    DAY_S,
    AddressBook,
    Banned,
    Listening,
    Met,
    Missed,
    Note,
    Reached,
)
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.limits import (
    ADDRESS_AGE_DAYS_MAX,
    ADDRESS_FAILURES_MAX,
    ADDRESSES_MAX,
    ADDRESSES_REMEMBERED,
    LISTEN_PORTS_REMEMBERED,
    PEERS_RECALLED,
    REASON_BYTES_MAX,
)
from p2ptrain.wire.peer_id import PeerId

SWARM, OTHER_SWARM = cid_of(b"swarm"), cid_of(b"other")
PEERS = [identity_of(n.to_bytes(4, "big") * 8).peer_id for n in range(PEERS_RECALLED + 8)]
PEER, OTHER = PEERS[:2]
NOW = 1_800_000_000.0


def at(host: str, peer: PeerId = PEER) -> str:
    return f"/ip4/{host}/tcp/4001/p2p/{peer}"


def book_of(folder: Path, *notes: Note, now: float = NOW) -> AddressBook:
    book = AddressBook(folder / "state" / "book.sqlite", now)
    book.record(notes)
    return book


def recalled(book: AddressBook, *topics: str) -> list[str]:
    return [remembered.address for remembered in book.recall(topics or (SWARM,))]


def test_what_was_met_and_reached_is_there_after_a_restart_the_newest_success_first(
    tmp_path: Path,
) -> None:
    told = Met(PEER, (SWARM,), (at("1.1.1.1"), at("1.1.1.2")), NOW)
    with book_of(
        tmp_path,
        told,
        Reached(PEER, (SWARM,), at("1.1.1.2"), NOW),
        Reached(OTHER, (SWARM,), at("1.1.1.3", OTHER), NOW + 5),
        Reached(OTHER, (SWARM,), at("1.1.1.3", OTHER), NOW + 6),
    ):
        pass
    with AddressBook(tmp_path / "state" / "book.sqlite", NOW) as book:
        assert recalled(book) == [at("1.1.1.3", OTHER), at("1.1.1.2"), at("1.1.1.1")]
        best, _, never = book.recall([SWARM])
        assert (best.successes, best.worked_at, best.failures) == (2, NOW + 6, 0)
        assert (never.successes, never.worked_at) == (0, None)
        assert not book.warning


def test_a_failure_puts_an_address_behind_the_others_until_it_works_again(tmp_path: Path) -> None:
    first, second = at("1.1.1.1"), at("1.1.1.2")
    with book_of(
        tmp_path,
        Reached(PEER, (SWARM,), second, NOW),
        Reached(PEER, (SWARM,), first, NOW + 1),
        Missed(PEER, first, "connection refused", NOW + 2),
    ) as book:
        assert recalled(book) == [second, first]
        assert book.recall([SWARM])[1].last_error == "connection refused"
        book.record([Reached(PEER, (SWARM,), first, NOW + 3)])
        assert recalled(book) == [first, second]
        assert book.recall([SWARM])[0].last_error == ""


def test_each_topic_has_its_own_peers(tmp_path: Path) -> None:
    with book_of(
        tmp_path,
        Met(PEER, (SWARM,), (at("1.1.1.1"),), NOW),
        Met(OTHER, (OTHER_SWARM, SWARM), (at("1.1.1.2", OTHER),), NOW),
    ) as book:
        assert recalled(book, OTHER_SWARM) == [at("1.1.1.2", OTHER)]
        assert sorted(recalled(book, SWARM, OTHER_SWARM)) == [at("1.1.1.1"), at("1.1.1.2", OTHER)]
        assert recalled(book, "unheard of") == []


def test_hearsay_that_never_worked_and_those_who_are_banned_are_not_remembered(
    tmp_path: Path,
) -> None:
    with book_of(
        tmp_path,
        Missed(OTHER, at("1.1.1.9", OTHER), "no answer", NOW),
        Met(PEER, (SWARM, OTHER_SWARM), (at("1.1.1.1"),), NOW),
        Banned(PEER),
    ) as book:
        assert recalled(book, SWARM, OTHER_SWARM) == []


def test_the_best_addresses_and_peers_are_kept_and_the_rest_forgotten(tmp_path: Path) -> None:
    many = tuple(at(f"1.1.1.{n}") for n in range(ADDRESSES_MAX + 4))
    with book_of(
        tmp_path,
        Met(PEER, (SWARM,), many, NOW),
        Reached(PEER, (SWARM,), many[-1], NOW),
        *(Reached(p, (SWARM,), at("1.1.2.1", p), NOW + n) for n, p in enumerate(PEERS[1:])),
    ) as book:
        kept = book.recall([SWARM])
        assert len({remembered.peer for remembered in kept}) == PEERS_RECALLED
        assert kept[0].peer == PEERS[-1]
        book.record([Reached(PEER, (SWARM,), many[-1], NOW + 1000)])
        mine = [each.address for each in book.recall([SWARM]) if each.peer == PEER]
        assert len(mine) == ADDRESSES_MAX
        assert mine[0] == many[-1]


def test_the_whole_book_is_bounded_and_the_oldest_rows_go_first(tmp_path: Path) -> None:
    topics = tuple(f"topic {n}" for n in range(ADDRESSES_REMEMBERED // ADDRESSES_MAX))
    addresses = tuple(at(f"1.1.1.{n}") for n in range(ADDRESSES_MAX))
    with book_of(
        tmp_path,
        Met(OTHER, (SWARM,), (at("1.1.1.1", OTHER),), NOW),
        Met(PEER, topics, addresses, NOW + 1),
        Listening("/ip4/0.0.0.0/tcp/0", 1),
    ) as book:
        assert recalled(book) == []
        assert len(recalled(book, topics[0])) == ADDRESSES_MAX


def test_what_was_not_met_for_a_season_or_fails_without_end_is_forgotten_at_a_restart(
    tmp_path: Path,
) -> None:
    old, dead, good = (at(f"1.1.1.{n}") for n in range(3))
    failures = [Missed(PEER, dead, "no answer", NOW)] * ADDRESS_FAILURES_MAX
    with book_of(
        tmp_path,
        Met(PEER, (SWARM,), (old,), NOW - DAY_S),
        Met(PEER, (SWARM,), (dead, good), NOW),
        *failures,
    ):
        pass
    later = NOW + (ADDRESS_AGE_DAYS_MAX - 0.5) * DAY_S
    with AddressBook(tmp_path / "state" / "book.sqlite", later) as book:
        assert recalled(book) == [good]


def test_ports_are_remembered_by_listen_address_and_bounded(tmp_path: Path) -> None:
    with book_of(tmp_path, Listening("/ip4/0.0.0.0/tcp/0", 4001)) as book:
        book.record([Listening("/ip4/0.0.0.0/tcp/0", 4002), Listening("/ip6/::/tcp/0", 4003)])
        assert book.ports() == {"/ip4/0.0.0.0/tcp/0": 4002, "/ip6/::/tcp/0": 4003}
        book.record([Listening(f"/ip4/10.0.0.{n}/tcp/0", 1 + n) for n in range(100)])
        assert len(book.ports()) <= LISTEN_PORTS_REMEMBERED


@given(st.text(st.characters(), max_size=2 * REASON_BYTES_MAX))
@settings(max_examples=30)
def test_any_words_of_a_failure_can_be_kept(why: str) -> None:
    address = at("1.1.1.1")
    with TemporaryDirectory() as folder, book_of(Path(folder)) as book:
        book.record([Met(PEER, (SWARM,), (address,), NOW), Missed(PEER, address, why, NOW)])
        assert book.recall([SWARM])[0].failures == 1


# --- what is wrong with the file --------------------------------------------------------------
def begun_anew(folder: Path) -> bool:
    """Open the book; True if it was set aside, with a warning, and works again."""
    path = folder / "state" / "book.sqlite"
    with AddressBook(path, NOW) as book:
        anew = bool(book.warning)
        assert anew == path.with_name(path.name + DAMAGED_SUFFIX).exists()
        if anew:
            assert "set aside" in book.warning
            assert recalled(book) == []
        book.record([Met(OTHER, (SWARM,), (at("1.1.1.2", OTHER),), NOW)])
        assert at("1.1.1.2", OTHER) in recalled(book)
    return anew


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_no_database_is_set_aside_and_a_new_book_begun(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "state" / "book.sqlite"
    path.parent.mkdir()
    path.write_bytes(content)
    assert begun_anew(tmp_path)
    assert path.with_name(path.name + DAMAGED_SUFFIX).read_bytes() == content


def test_an_empty_file_is_a_new_book(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "book.sqlite").touch()
    assert not begun_anew(tmp_path)


def test_a_book_of_another_version_is_set_aside(tmp_path: Path) -> None:
    book_of(tmp_path).close()
    with sqlite3.connect(tmp_path / "state" / "book.sqlite") as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    assert begun_anew(tmp_path)


def test_a_torn_file_or_a_flipped_bit_anywhere_costs_the_book_at_most(tmp_path: Path) -> None:
    addresses = tuple(at(f"1.1.1.{n}") for n in range(ADDRESSES_MAX))
    book_of(tmp_path, Met(PEER, (SWARM, OTHER_SWARM), addresses, NOW)).close()
    path = tmp_path / "state" / "book.sqlite"
    whole = path.read_bytes()
    places = [*range(0, 100, 3), *range(100, len(whole), 811)]
    aside = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        for content in (bytes(damaged), whole[:place]):
            path.write_bytes(content)
            path.with_name(path.name + DAMAGED_SUFFIX).unlink(missing_ok=True)
            aside += begun_anew(tmp_path)
    assert aside > len(places) / 2


def test_rows_whose_address_and_peer_do_not_fit_are_not_recalled(tmp_path: Path) -> None:
    with book_of(tmp_path, Met(PEER, (SWARM,), (at("1.1.1.1"), at("1.1.1.2")), NOW)):
        pass
    with sqlite3.connect(tmp_path / "state" / "book.sqlite") as database:
        change = "UPDATE addresses SET address = ? WHERE address = ?"
        database.execute(change, (at("1.1.1.1", OTHER), at("1.1.1.1")))
    database.close()
    with AddressBook(tmp_path / "state" / "book.sqlite", NOW) as book:
        assert recalled(book) == [at("1.1.1.2")]


def test_a_folder_in_place_of_the_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state" / "book.sqlite").mkdir(parents=True)
    with pytest.raises(StoreError, match="delete it"):
        AddressBook(tmp_path / "state" / "book.sqlite", NOW)


def test_a_full_disk_is_said_and_what_was_written_before_stays(tmp_path: Path) -> None:
    with book_of(tmp_path, Met(PEER, (SWARM,), (at("1.1.1.1"),), NOW)) as book:
        with file_size_limit(4096), pytest.raises(StoreError, match="has room"):
            book.record([Met(PEER, (SWARM,), (at("1.1.1.2"),), NOW)])
        assert recalled(book) == [at("1.1.1.1")]
        book.record([Met(PEER, (SWARM,), (at("1.1.1.3"),), NOW)])
        assert set(recalled(book)) == {at("1.1.1.1"), at("1.1.1.3")}

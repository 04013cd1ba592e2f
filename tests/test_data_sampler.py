"""Who trains on what: the draws of protocol/data.md section 4."""

import numpy as np
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from p2ptrain.data.sampler import FEW, assigned, first_by_key, window
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import WINDOW_CHUNKS
from p2ptrain.wire.peer_id import PeerId

BEACONS = [digest("test", bytes([i])) for i in range(200)]
ALICE, BOB = PeerId("12D3KooWAlice"), PeerId("12D3KooWBob")


def test_the_draws_are_the_specified_ones() -> None:
    assert assigned(BEACONS[0], ALICE, 10, 2, 3).tolist() == [[8, 1, 7], [9, 3, 2]]
    assert window(BEACONS[0], ALICE, 1000)[:5].tolist() == [23, 29, 31, 35, 52]


@given(st.integers(1, 20_000), st.integers(1, 8), st.integers(1, 300), st.sampled_from(BEACONS))
def test_they_are_the_first_of_whole_permutations(
    count: int, steps: int, batch: int, beacon: Digest
) -> None:
    wanted = steps * batch
    whole: list[int] = []
    while len(whole) < wanted:
        epoch = len(whole) // count
        seed = digest("samples", beacon, ALICE.encode(), epoch.to_bytes(8, "little"))
        keys = np.frombuffer(blake3(seed).digest(length=8 * count), "<u8")
        whole += np.argsort(keys, kind="stable").tolist()
    drawn = assigned(beacon, ALICE, count, steps, batch)
    assert drawn.ravel().tolist() == whole[:wanted]


@given(
    arrays(
        np.uint64, st.integers(1, 3 * FEW), elements=st.integers(0, 3) | st.integers(0, 2**64 - 1)
    ),
    st.integers(1, 2 * FEW),
)
def test_keys_that_are_not_uniform_or_equal_are_put_in_order_too(
    keys: np.ndarray[tuple[int], np.dtype[np.uint64]], wanted: int
) -> None:
    places = sorted(range(len(keys)), key=lambda place: (int(keys[place]), place))
    assert first_by_key(keys, wanted).tolist() == places[:wanted]
    most = ~keys  # hardly any below a limit
    places = sorted(range(len(keys)), key=lambda place: (int(most[place]), place))
    assert first_by_key(most, wanted).tolist() == places[:wanted]


@given(st.integers(1, 300), st.integers(1, 8), st.integers(1, 40))
def test_no_record_comes_twice_before_all_came_once(count: int, steps: int, batch: int) -> None:
    drawn = assigned(BEACONS[1], ALICE, count, steps, batch)
    assert drawn.shape == (steps, batch)
    assert drawn.dtype == np.int32
    times = np.bincount(drawn.ravel(), minlength=count)
    assert len(times) == count
    assert times.max() - times.min() <= 1


def test_every_record_is_drawn_equally_often_over_many_rounds() -> None:
    count, wanted = 50, 10
    times = np.zeros(count)
    for beacon in BEACONS:
        times += np.bincount(assigned(beacon, ALICE, count, 2, 5).ravel(), minlength=count)
    expected = len(BEACONS) * wanted / count
    chi2 = float(((times - expected) ** 2 / expected).sum())
    assert chi2 < 85  # 49 degrees of freedom: above this once in a thousand


def test_two_peers_share_no_more_records_than_chance_gives() -> None:
    shared = [
        len(np.intersect1d(assigned(b, ALICE, 1000, 5, 20), assigned(b, BOB, 1000, 5, 20)))
        for b in BEACONS
    ]
    assert 9 < np.mean(shared) < 11  # 100 x 100 / 1000


def test_another_beacon_draws_others() -> None:
    assert not np.array_equal(
        assigned(BEACONS[0], ALICE, 1000, 5, 20), assigned(BEACONS[1], ALICE, 1000, 5, 20)
    )


def test_a_small_set_is_used_whole() -> None:
    assert window(BEACONS[0], ALICE, WINDOW_CHUNKS).tolist() == list(range(WINDOW_CHUNKS))
    assert window(BEACONS[0], ALICE, 1).tolist() == [0]


def test_a_window_of_a_large_set_has_its_size_and_differs_between_peers() -> None:
    mine, yours = window(BEACONS[0], ALICE, 5000), window(BEACONS[0], BOB, 5000)
    for chunks in (mine, yours):
        assert len(set(chunks.tolist())) == WINDOW_CHUNKS
        assert (np.diff(chunks) > 0).all()
        assert 0 <= chunks[0] <= chunks[-1] < 5000
    assert len(np.intersect1d(mine, yours)) < 6

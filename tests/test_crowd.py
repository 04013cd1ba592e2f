"""A crowd, small: a hundred peers, of whom each round draws 64; bigger ones are in `make soak`."""

from simnet.crowd import Crowd, run_crowd
from simnet.crowd_world import neighbours_of
from simnet.faults import CALM
from simnet.keys import KeyRing


def test_a_hundred_peers_certify_three_rounds_and_end_in_one_state() -> None:
    """None of them sits in every committee; nobody fails here."""
    report = run_crowd(1, Crowd(100, 3, 0.0, CALM, 3.0, 0.0, {}))
    assert report.violation == ""
    assert report.rounds == 3
    assert report.members == 100
    assert report.progress == 1.0
    assert report.states_most <= 2


def test_neighbours_know_each_other_and_everybody_has_some() -> None:
    ring = KeyRing(1)
    near = neighbours_of(1, [ring.new_signer().peer for _ in range(300)])
    assert all(peer in near[other] for peer, others in near.items() for other in others)
    assert min(map(len, near.values())) >= 5

"""The parts of a story: links that have widths, and peers that learn."""

import random
from dataclasses import replace

import numpy as np
import pytest

from p2ptrain.wire.digest import digest
from p2ptrain.wire.messages import GetTip, Goodbye, Message, Piece
from p2ptrain.wire.peer_id import PeerId, peer_id_of
from simnet.story import Task
from simnet.story_links import Access, Sizes, StoryWorld
from simnet.story_training import Classroom, Pupil, Vector, _gradient, _scores

TASK = Task(
    name="a million parameters in int4",
    values=1_000_000,
    codec=4,
    local_steps=20,
    batch=32,
    rounds=1000,
    shard_values=131_072,
    norm_max=10.0,
    optimizer="plain",
    outer_learning_rate=1.0,
    momentum=0.0,
    learning_rate=0.05,
)


# --- links ------------------------------------------------------------------------------------
class Listener:
    """Writes down what comes, and when."""

    running = True

    def __init__(self, world: StoryWorld, peer: PeerId, name: str) -> None:
        self.peer, self.name = peer, name
        self.heard: list[tuple[float, Message]] = []
        self._world = world
        world.add(self)

    def deliver(self, sender: PeerId, message: Message) -> None:
        self.heard.append((self._world.now, message))


PEERS = [peer_id_of(digest("listener", bytes([i]))) for i in range(3)]
A_PARCEL = Piece(digest("parent"), PEERS[0], 0, (), bytes(100_000))
USUAL = Access(up_bytes_s=1e6, down_bytes_s=1e8, latency_s=0.01, loss_ratio=0.0)


def wired(*accesses: Access, sizes: Sizes = Sizes(1, 1, 1)) -> tuple[StoryWorld, list[Listener]]:  # noqa: B008
    """A world of three."""
    given = dict(zip(PEERS, accesses or (USUAL,) * 3, strict=True))
    world = StoryWorld(1, given, sizes)
    return world, [Listener(world, peer, f"p{i}") for i, peer in enumerate(PEERS)]


def arrivals(world: StoryWorld, listener: Listener) -> list[float]:
    """When things came, once all has come."""
    world.run(lambda: False, 1e6)
    return [at for at, _ in listener.heard]


def test_data_takes_its_bytes_by_the_uplink_and_the_latency_of_both_ends() -> None:
    world, (_, other, _) = wired()
    world.post(PEERS[0], PEERS[1], A_PARCEL)
    (at,) = arrivals(world, other)
    assert at == pytest.approx(0.105 + 0.02, rel=0.02)
    assert world.meters[PEERS[0]].up == world.meters[PEERS[1]].down
    assert world.meters[PEERS[0]].up["Piece"] == pytest.approx(105_000, rel=0.01)


def test_an_uplink_is_shared_in_turns() -> None:
    world, (_, other, third) = wired()
    for _ in range(3):
        world.post(PEERS[0], PEERS[1], A_PARCEL)
    world.post(PEERS[0], PEERS[2], A_PARCEL)
    assert arrivals(world, other)[-1] == pytest.approx(4 * 0.105 + 0.02, rel=0.02)
    assert arrivals(world, third)[0] == pytest.approx(3 * 0.105 + 0.02, rel=0.02)


def test_a_narrow_downlink_delays_what_several_send_at_once() -> None:
    narrow = replace(USUAL, down_bytes_s=1e6)
    world, (receiver, _, _) = wired(narrow, USUAL, USUAL)
    world.post(PEERS[1], PEERS[0], A_PARCEL)
    world.post(PEERS[2], PEERS[0], A_PARCEL)
    first, second = arrivals(world, receiver)
    assert second - first == pytest.approx(0.105, rel=0.02)


def test_control_passes_data_that_waits() -> None:
    world, (_, other, _) = wired()
    for _ in range(10):
        world.post(PEERS[0], PEERS[1], A_PARCEL)
    world.post(PEERS[0], PEERS[1], GetTip(1))
    world.run(lambda: bool(other.heard), 1e6)
    assert isinstance(other.heard[0][1], GetTip)
    assert other.heard[0][0] < 0.03


def test_data_counts_with_the_size_that_it_has_in_the_recipe() -> None:
    world, (_, other, _) = wired(sizes=Sizes(contribution=10, reduced=1, state=1))
    world.post(PEERS[0], PEERS[1], A_PARCEL)
    assert arrivals(world, other)[0] == pytest.approx(1.05 + 0.02, rel=0.02)


def test_loss_slows_data_down_and_delays_control_but_nothing_vanishes() -> None:
    lossy = replace(USUAL, loss_ratio=0.05, up_bytes_s=1e8, latency_s=0.05)
    world, (_, other, _) = wired(lossy, lossy, lossy)
    for n in range(100):
        world.post(PEERS[0], PEERS[1], GetTip(n))
    world.post(PEERS[0], PEERS[1], A_PARCEL)
    arrivals(world, other)
    told = [message for _, message in other.heard if isinstance(message, GetTip)]
    assert told == [GetTip(n) for n in range(100)], "one lane keeps its order"
    (data_at,) = [at for at, message in other.heard if isinstance(message, Piece)]
    assert data_at > 2.0, "TCP: 1.22 x 1448 bytes / (0.2 s x sqrt(0.0975)) is 28 kB/s"


def test_what_crosses_a_partition_or_waits_in_a_dead_process_is_gone() -> None:
    world, (_, other, third) = wired()
    world.cut = frozenset({PEERS[1]})
    world.post(PEERS[0], PEERS[1], Goodbye("across"))
    for _ in range(3):
        world.post(PEERS[0], PEERS[2], A_PARCEL)
    world.lost(PEERS[0])
    assert arrivals(world, other) == []
    assert len(third.heard) == 1, "what was on the wire arrives"


def test_who_is_let_go_hears_nothing_and_is_not_heard() -> None:
    world, (one, other, third) = wired()
    world.ban(PEERS[0], PEERS[1])
    world.post(PEERS[0], PEERS[1], GetTip(1))
    world.post(PEERS[1], PEERS[0], GetTip(2))
    world.post(PEERS[1], PEERS[2], GetTip(3))
    assert arrivals(world, third)
    assert one.heard == other.heard == []


# --- the trainer ------------------------------------------------------------------------------
def test_the_gradient_of_the_trainer_is_that_of_its_loss() -> None:
    room = Classroom(TASK, 4)
    rng = np.random.default_rng(3)
    parameters = np.frombuffer(room.initial(1), "<f4").copy()
    inputs = rng.random((16, 64), np.float32)
    labels = rng.integers(0, 10, 16)

    def loss(at: Vector) -> float:
        _, scores = _scores(at, inputs)
        wide = scores.astype(np.float64)
        chosen = wide[np.arange(16), labels]
        return float((np.log(np.exp(wide).sum(axis=1)) - chosen).mean())

    gradient = _gradient(parameters, inputs, labels)
    direction = gradient / np.linalg.norm(gradient)
    step = np.float32(0.01) * direction
    slope = (loss(parameters + step) - loss(parameters - step)) / 0.02
    assert slope == pytest.approx(float(np.linalg.norm(gradient)), rel=0.01)


def test_what_rounding_took_comes_next_time_if_the_contribution_counted() -> None:
    pupil = Pupil(Classroom(TASK, 4), 1, 0)
    state = pupil.initial()
    pupil.contribution(state, random.Random(0))
    assert not pupil._residual.any()
    pupil.counted()
    assert np.abs(pupil._residual).max() > 0

"""Announcements between real nodes over libp2p: who is seen, who is frozen, who is back."""

from pathlib import Path

import trio
from test_status_processes import status_when
from test_swarm_processes import Story, contributions, recipe, story

from p2ptrain.node.local_swarm import PeerProcess
from p2ptrain.node.status import Status

SEEN_S = 2.0
TELLING_S = 3.0  # the bound is 2 s; processes of a busy machine get their turn late


def sees_two(status: Status) -> bool:
    """Two others, on our chain, who have trained: each said so within the last second."""
    seen = status.announced.sightings if status.announced is not None else ()
    return [each.agrees and each.samples_s > 0 for each in seen] == [True, True]


async def told(s: Story, peer: PeerProcess, event: str, about: str) -> float:
    """Seconds until a peer has told of another."""
    began = trio.current_time()
    await s.until(lambda: any(e["peer"] == about for e in s.said(peer, event)))
    return trio.current_time() - began


async def test_peers_see_one_another_and_a_frozen_one_is_nobody_s_wait_until_it_wakes(
    tmp_path: Path,
) -> None:
    async with story(tmp_path) as s:
        one = await s.found(recipe(tmp_path, rounds=3000, local_steps=20), "--wait-for", "2")
        link = await s.link_of(one)
        two, frozen = [await s.join(name, link) for name in ("two", "frozen")]
        peers = (one, two, frozen)
        await s.until(lambda: min(map(contributions, peers)) >= 2)
        ids = {peer.name: str(peer.latest["started"]["peer"]) for peer in peers}

        for peer in peers:
            with trio.fail_after(TELLING_S):
                seen = (await status_when(peer, sees_two)).announced
            assert seen is not None
            assert {x.peer for x in seen.sightings} == set(ids.values()) - {ids[peer.name]}
            assert seen.states == 1
            assert all(x.age_s <= SEEN_S and x.local_steps == 20 for x in seen.sightings)
            assert all(x.addresses for x in seen.sightings)

        s.swarm.freeze("frozen")
        try:
            assert await told(s, one, "silent", ids["frozen"]) <= TELLING_S
            seen_round = one.round
            await s.until(lambda: one.round >= seen_round + 3)
        finally:
            s.swarm.thaw("frozen")
        assert await told(s, one, "heard", ids["frozen"]) <= TELLING_S
        assert not s.said(one, "strike")
        for peer in peers:
            s.swarm.interrupt(peer.name)
        await s.until(lambda: all(peer.exit_code == 0 for peer in peers))

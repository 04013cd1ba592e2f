"""A peer whose processes stand still (SIGSTOP, a laptop that sleeps) holds nobody up.

Its sockets stay open and TCP says nothing, so only our own pings and the round's own deadlines can
notice. What is bounded here is what the survivors wait, on a machine that other tests use too.
"""

from itertools import pairwise
from pathlib import Path

import trio
from test_swarm_processes import Story, contributions, recipe, story

from p2ptrain.node.local_swarm import PeerProcess
from p2ptrain.node.telemetry import number

# A set is proposed a grace after its quorum (2 s at first), a frozen proposer's view is given up
# after its limit (0.5 s, or 4 rounds), and two rounds without it put a member out.
OUT_OF_THE_ROSTER_S_MAX = 15.0
GAP_S_MAX = 10.0


def gaps_s(s: Story, peer: PeerProcess, since_s: float) -> list[float]:
    """Seconds between the rounds that a peer applied after a moment of its own clock."""
    times = [number(e["t"]) for e in s.said(peer, "round") if number(e["t"]) >= since_s]
    return [after - before for before, after in pairwise(times)]


async def test_a_frozen_peer_is_soon_nobody_s_wait_and_takes_part_again_when_it_wakes(
    tmp_path: Path,
) -> None:
    async with story(tmp_path) as s:
        one = await s.found(recipe(tmp_path, rounds=2000, local_steps=20), "--wait-for", "2")
        link = await s.link_of(one)
        two, frozen = [await s.join(name, link) for name in ("two", "frozen")]
        peers = (one, two, frozen)
        await s.until(lambda: min(map(contributions, peers)) >= 3)

        s.swarm.freeze("frozen")
        frozen_at, last = trio.current_time(), number(one.rounds[-1]["t"])
        try:
            await s.until(lambda: one.rounds[-1]["members"] == 2)
            out_after_s = trio.current_time() - frozen_at
            seen = one.round
            await s.until(lambda: one.round >= seen + 5)
            stood_at = frozen.round
        finally:
            s.swarm.thaw("frozen")
        assert out_after_s <= OUT_OF_THE_ROSTER_S_MAX
        assert max(gaps_s(s, one, last)) <= GAP_S_MAX
        assert not any(event["branch"] for event in one.rounds), "its quorum was never lost"

        await s.until(
            lambda: any(e["included"] for e in frozen.rounds if number(e["round"]) > stood_at + 5)
        )
        for peer in peers:
            s.swarm.interrupt(peer.name)
        await s.until(lambda: all(peer.exit_code == 0 for peer in peers))

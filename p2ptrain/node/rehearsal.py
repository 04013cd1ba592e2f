"""The demo's story, without its drawing: four peers, a late one, a killed one, equal weights.

1  the bundled digits are seeded into the first peer's home
2  the first peer founds the swarm; two more join it by its link; training begins
3  after a third of the rounds a fourth starts, which has nothing: recipe, data and state come
   from the others
4  when the fourth has contributed and most rounds are done, the founder is killed (SIGKILL)
5  the others notice, go on without it, and end on the same bits
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from p2ptrain.config import Recipe
from p2ptrain.errors import P2PTrainError
from p2ptrain.node.local_swarm import (
    Event,
    LocalSwarm,
    PeerProcess,
    peer_environment,
    share_kernels,
)
from p2ptrain.node.telemetry import number

STORY_TIMEOUT_S = 240.0  # four times what it should take on two busy cores
NAMES = ("one", "two", "three", "four")
FOUNDER, LATE = "one", "four"
LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1")
LATE_AT, KILL_AT = 0.33, 0.7  # of the rounds


class DemoFailed(P2PTrainError):
    """A peer did not do what the story asks of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the story ended.

    peers      in the order of NAMES
    killed     who was killed
    model      the exported file
    accuracy   lowest of the survivors, on the held-out samples
    hashes     SHA-256 of the survivors' weights: one, if all is well
    seconds    from the first process to the last exit
    """

    swarm: str
    peers: tuple[PeerProcess, ...]
    killed: str
    model: Path
    accuracy: float
    hashes: frozenset[str]
    seconds: float


async def rehearse(
    recipe: Path, folder: Path, kernels: Path, model: Path, notice: Callable[[str, Event], None]
) -> Outcome:
    """Play the story.

    recipe   the digits recipe
    folder   for the peers' homes
    kernels  folder of compiled kernels, shared
    model    where the trained network goes
    notice   called with the peer's name ("" for the story itself) and each event

    Raises DemoFailed with the reason.
    """
    began = trio.current_time()
    rounds = Recipe.from_file(recipe).rounds
    swarm = LocalSwarm(lambda peer, event: notice(peer.name, event))
    homes = {name: folder / name for name in NAMES}
    for home in homes.values():
        share_kernels(home, kernels)
    notice("", {"event": "story", "text": "seeding the bundled digits"})
    await run_command("seed", "dataset", "digits", "--once", "--home", str(homes[FOUNDER]))
    try:
        with trio.fail_after(STORY_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_for_failures, swarm)
                await _play(nursery, swarm, homes, recipe, rounds, notice)
                nursery.cancel_scope.cancel()
    except trio.TooSlowError:
        raise DemoFailed(
            f"the demo was not over after {STORY_TIMEOUT_S:.0f} s: " + _where_it_stands(swarm)
        ) from None
    finally:
        with trio.CancelScope(shield=True):
            await swarm.stop_all()
    survivors = [peer for peer in swarm.peers.values() if peer.name != FOUNDER]
    done = [peer.latest["done"] for peer in survivors]
    swarm_id = str(done[0]["swarm"])
    await run_command(
        "export", "--swarm", swarm_id, "--out", str(model), "--home", str(homes["two"])
    )
    return Outcome(
        swarm=swarm_id,
        peers=tuple(swarm.peers[name] for name in NAMES),
        killed=FOUNDER,
        model=model,
        accuracy=min(number(event["accuracy"]) for event in done),
        hashes=frozenset(str(event["weights_sha256"]) for event in done),
        seconds=trio.current_time() - began,
    )


async def _play(
    nursery: trio.Nursery,
    swarm: LocalSwarm,
    homes: dict[str, Path],
    recipe: Path,
    rounds: int,
    notice: Callable[[str, Event], None],
) -> None:
    def story(text: str) -> None:
        notice("", {"event": "story", "text": text})

    def at(name: str, share: float) -> Callable[[], bool]:
        return lambda: swarm.peers[name].round >= share * rounds

    async def start(name: str, target: str, *more: str) -> None:
        home = homes[name]
        await swarm.start(nursery, name, home, "--swarm", target, *LISTEN, *more)

    story("peer one founds the swarm")
    await start(FOUNDER, str(recipe), "--wait-for", "2")
    founder = swarm.peers[FOUNDER]
    await swarm.wait_until(lambda: "device" in founder.latest)
    link = str(founder.latest["swarm"]["link"])
    story("two and three join it by its link")
    await start("two", link)
    await start("three", link)
    await swarm.wait_until(at("two", LATE_AT))
    story("four joins late: recipe, data and state come from the others")
    await start(LATE, link)
    late = swarm.peers[LATE]

    def has_contributed() -> bool:
        return any(event["included"] for event in late.rounds)

    await swarm.wait_until(lambda: has_contributed() or "done" in late.latest)
    if not has_contributed():
        raise DemoFailed(
            f"peer {LATE} came too late: the {rounds} rounds were over before it had contributed.\n"
            "Is the machine busy with something else? Try again."
        )
    await swarm.wait_until(at("two", KILL_AT))
    story("peer one, the founder, is killed (SIGKILL); the others go on")
    swarm.kill(FOUNDER)
    await swarm.wait_until(lambda: all(p.exit_code is not None for p in swarm.peers.values()))
    story("the run is over")


async def _watch_for_failures(swarm: LocalSwarm) -> None:
    """Raise as soon as a peer ends that should not have."""

    def failed() -> list[PeerProcess]:
        return [
            peer
            for peer in swarm.peers.values()
            if peer.exit_code is not None
            and not (peer.exit_code == 0 and "done" in peer.latest)
            and not peer.killed
        ]

    await swarm.wait_until(lambda: bool(failed()))
    peer = failed()[0]
    raise DemoFailed(
        f"peer {peer.name} ended with exit code {peer.exit_code}:\n" + "\n".join(peer.stderr)
    )


def _where_it_stands(swarm: LocalSwarm) -> str:
    lines = []
    for peer in swarm.peers.values():
        waiting = peer.latest.get("waiting", {}).get("waits", "")
        lines.append(f"{peer.name}: round {peer.round}, waiting for {waiting or 'nothing named'}")
    return "\n".join(lines)


async def run_command(*arguments: str) -> dict[str, object]:
    """Run a p2ptrain command with --json and return what it printed. Raises DemoFailed."""
    command = [sys.executable, "-m", "p2ptrain.cli.main", *arguments, "--json"]
    result = await trio.run_process(
        command,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=peer_environment(),
    )
    if result.returncode != 0:
        words = result.stderr.decode("utf-8", "replace")
        raise DemoFailed(f"p2ptrain {' '.join(arguments)} ended with {result.returncode}:\n{words}")
    printed: dict[str, object] = json.loads(result.stdout)
    return printed

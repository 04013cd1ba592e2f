"""`p2ptrain seed run`: a run whose trainers are gone, or come back with nothing, is not lost."""

import shutil
from pathlib import Path

from test_swarm_processes import LISTEN, Story, recipe, story

from p2ptrain.cli import export
from p2ptrain.config_local import node_config
from p2ptrain.node.local_swarm import PeerProcess
from p2ptrain.node.telemetry import number


async def mirror(s: Story, link: str, *arguments: str) -> PeerProcess:
    """Start `seed run` in a home of its own."""
    await s.swarm.start(
        s.nursery, "mirror", s.home("mirror"), link, *LISTEN, *arguments, command=("seed", "run")
    )
    return s.swarm.peers["mirror"]


def weights_in(home: Path, swarm: str) -> bytes:
    """The exported weights of a home."""
    path = home / "model.safetensors"
    export.command(swarm=swarm, out=path, home=home)
    return path.read_bytes()


async def test_a_run_that_is_over_can_be_had_from_a_mirror_alone(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        one = await s.found(recipe(tmp_path, rounds=25, local_steps=600))
        link = await s.link_of(one)
        held = await mirror(s, link)
        (done,) = await s.end_of(one)
        await s.until(lambda: held.latest.get("mirrored", {}).get("finished"))
        assert held.latest["mirrored"]["block"] == done["block"]

        # Nobody but the mirror is there: it has recipe, data, chain and state.
        late = await s.join("late", await s.link_of(held))
        (end,) = await s.end_of(late)
        assert end["finished"]
        assert end["weights_sha256"] == done["weights_sha256"]
        assert end["accuracy"] == done["accuracy"]
        assert [e["what"] for e in s.said(late, "fetched")] == ["recipe", "manifest", "data set"]
        swarm = str(one.latest["swarm"]["swarm"])
        assert weights_in(held.home, swarm) == weights_in(one.home, swarm)
        s.swarm.interrupt("mirror")
        assert await s.code_of(held) == 0


async def test_a_run_without_members_rests_and_goes_on_when_one_comes_back(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        one = await s.found(recipe(tmp_path, rounds=40, local_steps=600))
        link = await s.link_of(one)
        held = await mirror(s, link)
        await s.until(lambda: number(held.latest.get("mirrored", {}).get("round")) >= 3)
        s.swarm.kill("one")
        await s.until(lambda: one.exit_code is not None)
        kept = int(number(held.latest["mirrored"]["round"]))

        late = await s.join("late", await s.link_of(held))
        await s.until(lambda: s.said(late, "warning") and "waiting" in late.latest)
        (warning, *_) = s.said(late, "warning")
        assert "the run rests at round" in str(warning["text"])
        assert "none of its 1 is connected" in str(late.latest["waiting"]["waits"])

        # The founder has lost its states, but neither its key nor its votes.
        swarm = node_config(one.home).swarm_path(one.latest["swarm"]["swarm"])  # type: ignore[arg-type]
        shutil.rmtree(swarm / "checkpoints")
        (swarm / "transcript.sqlite").unlink()
        mirror_address = held.latest["started"]["addresses"][0]  # type: ignore[index]
        again = await s.start(
            "one", one.home, "--swarm", str(one.latest["swarm"]["swarm"]), "--peer", mirror_address
        )  # fmt: skip
        first, second = await s.end_of(again, late)
        assert first["weights_sha256"] == second["weights_sha256"]
        assert first["rounds"] == 40
        assert number(again.rounds[0]["round"]) >= kept, "what the mirror held was not lost"
        assert second["contributed"], "the joiner was let in"


async def test_a_mirror_fetches_once_and_goes_on_from_its_own_store(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        one = await s.found(recipe(tmp_path, rounds=400, local_steps=50))
        link = await s.link_of(one)
        await s.until(lambda: one.round >= 2)
        held = await mirror(s, link, "--once", "--no-data")
        assert await s.code_of(held) == 0
        first = int(number(held.latest["mirrored"]["round"]))
        assert first >= 2
        assert [e["what"] for e in s.said(held, "fetched")] == ["recipe"]
        again = await mirror(s, link, "--once")
        assert await s.code_of(again) == 0
        assert int(number(again.latest["resumed"]["round"])) == first
        assert int(number(again.latest["mirrored"]["round"])) >= first

"""Swarms that start from an exported network: export, found, join by link, restart."""

from pathlib import Path

from test_swarm_processes import contributions, recipe, story

from p2ptrain.node.rehearsal import run_command
from p2ptrain.node.telemetry import number

ACCURACY_ALREADY = 0.93  # of the first network; a new one has about 0.3 after a round


def recipe_from(weights: str, original: Path, path: Path) -> Path:
    """The same recipe, begun from a file of weights."""
    text = original.read_text().replace("\n# init = ", "\ninit = ")
    path.write_text(text.replace('"model.safetensors"', f'"{weights}"'))
    return path


async def test_an_exported_network_is_where_a_new_swarm_begins(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        original = recipe(tmp_path, rounds=60)
        (first,) = await s.end_of(await s.found(original))
        assert number(first["accuracy"]) > ACCURACY_ALREADY
        model = tmp_path / "weights" / "first.safetensors"
        home = str(tmp_path / "one")
        await run_command("export", "--swarm", str(first["swarm"]), "--out", str(model),
                          "--home", home)  # fmt: skip

        again = recipe_from("weights/first.safetensors", original, tmp_path / "again.toml")
        two = await s.start("two", s.home("two", with_data=True), "--swarm", str(again),
                            "--wait-for", "1")  # fmt: skip
        link = await s.link_of(two)
        three = await s.join("three", link)
        await s.until(lambda: min(contributions(two), contributions(three)) >= 3)
        assert number(two.rounds[0]["accuracy"]) > ACCURACY_ALREADY
        fetched = [event["what"] for event in s.said(three, "fetched")]
        assert fetched == [
            "recipe", "manifest of the weights", "initial weights", "manifest", "data set"
        ]  # fmt: skip
        ends = await s.end_of(two, three)
        assert ends[0]["weights_sha256"] == ends[1]["weights_sha256"]

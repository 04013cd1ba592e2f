"""The summary of a run: the figures are those of the state that it ends with."""

import json
import os
import signal
from pathlib import Path

from test_applied import Stage, kernel_cache, stage  # noqa: F401
from test_peers import IDENTITIES, member

from p2ptrain.node.curve_file import CurveFile
from p2ptrain.node.reporting import Reporter
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.swarm.statesync import LoadState
from simnet.memnet import MemNet


def reporter(folder: Path, one: Stage, telemetry: Telemetry, peers: object) -> Reporter:
    curve = CurveFile(folder, "a run")
    return Reporter(one.state.me, "swarm", peers, telemetry, one.state, curve)  # type: ignore[arg-type]


async def test_a_peer_that_fetched_the_last_state_reports_its_accuracy(
    tmp_path: Path,
    kernel_cache: Path,  # noqa: F811
) -> None:
    """It had no round of its own to report, and summed up with accuracy 0 and loss NaN."""
    async with stage(tmp_path, kernel_cache) as one, member(MemNet(), IDENTITIES[0]) as peer:
        last = await one.make(one.genesis, "a")
        one.certify(last)
        await one.state.sync(LoadState(last.link, (last.bytes_after,)))
        summary = await reporter(tmp_path, one, peer.peers.telemetry, peer.peers).summary(
            finished=True
        )
        truth = await one.compute.evaluate()
        assert (summary.loss, summary.accuracy) == (truth.loss, truth.accuracy)
        assert summary.rounds == 1


async def test_a_summary_without_a_compute_process_says_what_it_does_not_know(
    tmp_path: Path,
    kernel_cache: Path,  # noqa: F811
) -> None:
    async with stage(tmp_path, kernel_cache) as one, member(MemNet(), IDENTITIES[0]) as peer:
        last = await one.make(one.genesis, "a")
        one.certify(last)
        await one.state.sync(last.certified_shards)
        assert one.compute.pid is not None
        os.kill(one.compute.pid, signal.SIGKILL)
        summary = await reporter(tmp_path, one, peer.peers.telemetry, peer.peers).summary(
            finished=True
        )
        assert summary.loss is None
        assert summary.accuracy is None
        assert "NaN" not in json.dumps(summary.values)
        assert len(summary.weights_sha256) == 64


async def test_rounds_are_reported_with_an_older_figure_while_evaluating_is_too_dear(
    tmp_path: Path,
    kernel_cache: Path,  # noqa: F811
) -> None:
    """10,000 test samples took five times as long as the local steps between two evaluations."""
    events: list[dict[str, object]] = []
    telemetry = Telemetry(lambda event: events.append(dict(event)))
    async with stage(tmp_path, kernel_cache) as one, member(MemNet(), IDENTITIES[0]) as peer:
        tired = reporter(tmp_path, one, telemetry, peer.peers)
        tired.evaluation_share = 1e-9
        made = await one.chain(one.genesis, 2)
        for block in made:
            one.certify(block)
            await one.state.sync(block.certified_shards)
            await tired.report(block.link)
        assert [event["evaluated_round"] for event in events] == [1, 1]
        assert events[0]["loss"] == events[1]["loss"]
        truth = await one.compute.evaluate()
        assert truth.loss != events[1]["loss"]
        assert (await tired.summary(finished=True)).loss == truth.loss

"""What must hold of a run of whole nodes, whoever was cut off: told apart from the code.

Nothing of the nodes is asked here but what they report: the blocks that each applied, in order,
and its summary. A sentence for each thing that does not hold.
"""

from collections.abc import Iterator

from p2ptrain.node.telemetry import number
from simnet.whole import PARTITION_S, Story

# Where the smallest runs of the tests end; chance is 0.1. From figures, with room below them.
ACCURACY_MIN = 0.5
# After the heal: redials pause up to 30 s, a round of all members that waits for one of them 12 s.
HEALED_S_MAX = 60.0


def violations(story: Story) -> list[str]:
    """What does not hold; empty if all is well."""
    return [*_ends(story), *_blocks(story), *_moves_on(story)]


def _ends(story: Story) -> Iterator[str]:
    summaries = [story.summaries.get(node) for node in range(story.plan.nodes)]
    done = [summary for summary in summaries if summary is not None and summary.finished]
    if len(done) < story.plan.nodes:
        yield f"{story.plan.nodes - len(done)} of {story.plan.nodes} nodes did not finish"
    if len({summary.weights_sha256 for summary in done}) > 1:
        yield "the nodes ended on different weights"
    if any(summary.rounds != story.plan.rounds for summary in done):
        yield f"a node finished after another number of rounds than {story.plan.rounds}"
    if any((summary.accuracy or 0.0) < ACCURACY_MIN for summary in done):
        yield f"a node ended below an accuracy of {ACCURACY_MIN}"


def _blocks(story: Story) -> Iterator[str]:
    states: dict[object, object] = {}
    settled: dict[object, object] = {}
    for at, node, event in story.events:
        if event["event"] != "round":
            continue
        if states.setdefault(event["block"], event["state"]) != event["state"]:
            yield f"node {node} at {at:.3f} s has another state after the same block"
        # A round that a branch repeats is not settled; all others agree on it for ever.
        if event["branch"] or (story.cut_at_s is not None and node in story.cut_off):
            continue
        if settled.setdefault(event["round"], event["block"]) != event["block"]:
            yield f"node {node} at {at:.3f} s has another block of round {event['round']}"


def _moves_on(story: Story) -> Iterator[str]:
    if story.cut_at_s is None or story.healed_at_s is None:
        return
    if story.healed_at_s < story.cut_at_s + PARTITION_S:
        yield "the partition was shorter than planned"
    if story.virtual_s > story.healed_at_s + HEALED_S_MAX + story.plan.rounds:
        yield f"the run took {story.virtual_s - story.healed_at_s:.0f} s after the heal"
    here = [node for node in range(story.plan.nodes) if node not in story.cut_off]
    while_cut = [
        number(event["round"])
        for node in here
        for at, event in story.of(node, "round")
        if story.cut_at_s < at < story.healed_at_s
    ]
    if len(here) > story.plan.nodes / 2 and story.plan.nodes > 2 and not while_cut:
        yield "those who could hear one another did no round while the others were cut off"

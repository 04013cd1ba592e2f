"""Liars that are members: p2ptrain's own node, with a Liar (hostile_lies.py) in three places.

Everything else is the production program, so it is admitted, trains, contributes and votes like
anybody. A Turncoat is one kind of liar after another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import hostile_lies as lies
import numpy as np
from hostile_lies import Liar
from numpy.typing import NDArray

from p2ptrain.node import compute, node, run
from p2ptrain.node.compute import LocalWork
from p2ptrain.node.peers import Peers
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.effects import Effect, KeyElsewhere, Proof
from p2ptrain.wire.messages import Block, Message
from p2ptrain.wire.peer_id import PeerId

PART_ROUNDS = 8  # each voter proposes in one round of four, or five


@dataclass
class Turncoat(Liar):
    """One kind of liar after another, each up to a round; the last one to the end."""

    parts: list[tuple[int, Liar]] = field(default_factory=list)

    def inhabit(self, machine: Averaging) -> None:
        super().inhabit(machine)
        for _, part in self.parts:
            part.inhabit(machine)

    @property
    def part(self) -> Liar:
        assert self.machine is not None
        here = self.machine.context.rounds
        return next((part for until, part in self.parts if here < until), self.parts[-1][1])

    def tamper(self, work: LocalWork) -> LocalWork:
        return self.part.tamper(work)

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        return self.part.bend(to, message)

    def heard(self, sender: PeerId, message: Message) -> None:
        for _, part in self.parts:
            part.heard(sender, message)

    def before_proposing(self) -> None:
        self.part.before_proposing()


MEMBERS: dict[str, type[Liar]] = {
    "honest": Liar,
    "nan": lies.NaN,
    "x1e6": lies.Huge,
    "false_norms": lies.FalseNorms,
    "opposed": lies.Opposed,
    "wrong_signatures": lies.WrongSignatures,
    "double_votes": lies.DoubleVotes,
    "wrong_hashes": lies.WrongHashes,
    "two_proposals": lies.TwoProposals,
    "false_timeouts": lies.FalseTimeouts,
    "withholds": lies.Withholds,
    "withholds_but_one": lies.WithholdsButOne,
    "stalls": lies.Stalls,
    "false_haves": lies.FalseHaves,
    "conspires": lies.Conspires,
    "replays": lies.Replays,
    "mute": lies.Mute,
}


def infest(liar: Liar) -> None:
    """Put a liar's parts in the place of the node's own, in this process."""

    class BentPeers(Peers):
        def send(self, to: PeerId, message: Message) -> bool:
            if liar.machine is None:
                return super().send(to, message)
            return all(self._sent(to, bent) for bent in [*liar.bend(to, message)])

        def _sent(self, to: PeerId, message: Message) -> bool:
            return super().send(to, message)

    class BentCompute(compute.Compute):
        async def train(
            self,
            indices: NDArray[np.int32],
            timeout_s: float | None = None,
            *,
            round_number: int = 0,
            noise: int = 0,
        ) -> LocalWork | None:
            work = await super().train(indices, timeout_s, round_number=round_number, noise=noise)
            return None if work is None else liar.tamper(work)

    class BentAveraging(Averaging):
        def start(self, now: float) -> list[Effect]:
            liar.inhabit(self)
            return super().start(now)

        def receive(self, now: float, sender: PeerId, message: Message) -> list[Effect]:
            liar.heard(sender, message)
            effects = super().receive(now, sender, message)
            # An honest node would stop here: its key is in use elsewhere.
            return [e for e in effects if not self._is_about_us(e)]

        def _is_about_us(self, effect: Effect) -> bool:
            if isinstance(effect, Proof):
                return effect.first.signer == self.config.me
            return isinstance(effect, KeyElsewhere)

        def _new_block(self, now: float) -> Block | None:
            liar.before_proposing()
            return super()._new_block(now)

    vars(node)["Peers"] = BentPeers
    vars(compute)["Compute"] = BentCompute
    vars(run)["Averaging"] = BentAveraging


def liar_named(name: str) -> Liar:
    """The liar of a name, or of several: "honest:8,nan:1,mute" is mute after round 9."""
    parts, until = list[tuple[int, Liar]](), 0
    for part in name.split(","):
        kind, _, rounds = part.partition(":")
        until += int(rounds or PART_ROUNDS)
        parts.append((until, MEMBERS[kind]()))
    return parts[0][1] if len(parts) == 1 else Turncoat(parts=parts)


def become(name: str, arguments: Sequence[str]) -> None:
    """Run p2ptrain's command line with these arguments as a liar of that name."""
    infest(liar_named(name))
    sys.argv[1:] = arguments
    from p2ptrain.cli.main import run as command_line

    command_line()

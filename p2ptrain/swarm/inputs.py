"""What the shell gives the averaging machine, and what it can read off it."""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.swarm.certificates import Rules
from p2ptrain.swarm.chain import Settings
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import Signer, Verifier
from p2ptrain.wire.messages import Norm2
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Timing:
    """Local durations, seconds. Peers may differ in them: none is compared across machines.

    view_first_s  deadline of a view while no view's duration is known
    view_min_s    least deadline of a view
    view_max_s    greatest
    view_factor   deadline over the median duration of the last 8 views
    grace_first_s wait for the last contributions while no duration is known
    grace_min_s   least
    grace_max_s   greatest
    branch_s      T_branch: silence of a quorum after which the living go on alone
    late_s        a tick this late means that this machine stood still
    """

    view_first_s: float = 10.0
    view_min_s: float = 0.5
    view_max_s: float = 60.0
    view_factor: float = 4.0
    grace_first_s: float = 2.0
    grace_min_s: float = 0.25
    grace_max_s: float = 10.0
    branch_s: float = 10.0
    late_s: float = 2.0


@dataclass(frozen=True, slots=True)
class AveragingConfig:
    """What does not change during a run.

    me        this peer; signer.peer
    swarm     what signatures name the swarm by (wire/envelope.py swarm_digest)
    signer    signs as this peer
    verifier  checks anyone's signatures
    settings  the recipe's part
    timing    local durations
    """

    me: PeerId
    swarm: Digest
    signer: Signer
    verifier: Verifier
    settings: Settings
    timing: Timing = Timing()

    @property
    def rules(self) -> Rules:
        """The part that checks need."""
        return Rules(self.swarm, self.verifier, self.settings)


@dataclass(frozen=True, slots=True)
class Contribution:
    """One round of local work on the machine's current block.

    data         digest of the sample indices
    weight       samples, >= 1
    shards       the encoded shards; their sizes are settings.shard_bytes
    norms2       squared norm of each shard
    local_steps  the most steps that this peer wants to take in the next round
    parent       the block that was worked on, if the caller wants that checked
    steps        local steps that were taken; 0: not known
    seconds      that they took
    """

    data: Digest
    weight: int
    shards: tuple[bytes, ...]
    norms2: tuple[Norm2, ...]
    local_steps: int
    parent: Digest | None = None
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that the machine waits for, in words for people.

    what     such as "votes: 2 of 3"
    since    when the wait began, seconds on the caller's clock
    limit    seconds after which the machine acts by itself; inf: never
    """

    what: str
    since: float
    limit: float

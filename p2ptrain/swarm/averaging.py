"""The averaging machine: one peer's part in all rounds of a run, without I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf

from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.effects import CommitRecord, Effect, VoteRecord
from p2ptrain.swarm.inputs import AveragingConfig, Contribution, Wait
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import Certificate, Message, Norm2, Piece
from p2ptrain.wire.peer_id import PeerId


class Averaging:
    """Drive it: start, then receive, expire and the local inputs; carry the effects out in order.

    RemoteProtocolError from receive: nothing has changed.
    """

    def __init__(
        self,
        config: AveragingConfig,
        context: Context,
        certificate: Certificate | None,
        reveals: Reveals,
        record: VoteRecord | None,
        own: CommitRecord | None,
    ) -> None:
        """Begin at a block.

        context      the chain after the newest block whose state this peer has applied
        certificate  that block's certificate; None: the founding block
        reveals      this peer's hash chain
        record       what it last wrote about its votes, after a restart
        own          its contribution to the block, if it had made one
        """
        raise NotImplementedError

    # --- what can be read ---------------------------------------------------------------------
    deadline: float = inf  # properties in truth
    view: int
    context: Context  # the newest block adopted
    certificate: Certificate | None  # and its certificate
    contributed: bool  # whether a contribution to context.block stands: no need to train for it
    finished: bool  # settings.rounds are certified and final
    quorum_lost: bool  # fewer than q voters were heard for branch_s: the living may branch
    phase: str  # "outside" | "training" | "contributions" | "reducing" | "votes" | "finished"
    waits: tuple[Wait, ...]

    # --- the machine --------------------------------------------------------------------------
    def start(self, now: float) -> list[Effect]:
        """Begin; after a restart this sends our contribution again."""
        raise NotImplementedError

    def receive(self, now: float, sender: PeerId, message: Message) -> list[Effect]:
        """Take one message; those that are not ours to judge (catch-up) are ignored."""
        raise NotImplementedError

    def expire(self, now: float) -> list[Effect]:
        """The deadline has come."""
        raise NotImplementedError

    # --- local inputs -------------------------------------------------------------------------
    def contribute(self, now: float, contribution: Contribution) -> list[Effect]:
        """Our local work on context.block is done. Ignored if one stands or we are no member."""
        raise NotImplementedError

    def piece_checked(
        self, now: float, sender: PeerId, piece: Piece, norm2: Norm2 | None
    ) -> list[Effect]:
        """The answer to CheckPiece. Raises RemoteProtocolError(contributor, 3.3 or 3.4)."""
        raise NotImplementedError

    def reduced(self, now: float, block: Digest, root: Digest, state: Digest) -> list[Effect]:
        """The answer to Reduce: Merkle root of the reduced shards, digest of the state after."""
        raise NotImplementedError

    def adopt(
        self, now: float, context: Context, certificates: Sequence[Certificate]
    ) -> list[Effect]:
        """Catch-up applied another block; certificates: after the common ancestor, oldest first.

        The last one is the context's; it must be there unless context is the founding block.
        """
        raise NotImplementedError

    def join(self, now: float) -> list[Effect]:
        """Ask to enter the roster, again and again until we are in it."""
        raise NotImplementedError

    def leave(self, now: float) -> list[Effect]:
        """Ask to be let go, again and again until we are out."""
        raise NotImplementedError

    def peers(self, now: float, connected: Collection[PeerId]) -> list[Effect]:
        """Who is connected now: whom Join goes to, and whom nobody need wait for."""
        raise NotImplementedError

    def heard(self, now: float, peer: PeerId) -> list[Effect]:
        """A sign of life that is no message, such as a ping: call it every 2 s at least."""
        raise NotImplementedError

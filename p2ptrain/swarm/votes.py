"""Votes for children of one block, counted by view.

A voter's first vote in a view counts. A different second one proves it a liar (rule 6.1), and both
are handed on as the proof; a ballot in a certificate is such a vote, too. Votes of a few views are
kept for each voter, for peers need not be in the same view.
"""

from __future__ import annotations

from p2ptrain.swarm.chain import vote_of
from p2ptrain.wire.limits import VOTES_PER_VOTER_MAX
from p2ptrain.wire.messages import Ballot, Certificate, Signed, Vote
from p2ptrain.wire.peer_id import PeerId


class Votes:
    """What voters said about the children of one block."""

    def __init__(self) -> None:
        self._votes: dict[PeerId, dict[int, Signed]] = {}
        self._tallies: dict[Vote, list[Ballot]] | None = None

    def add(self, signed: Signed, vote: Vote) -> Signed | None:
        """Count a checked vote; returns the vote that it contradicts, if it does."""
        self._tallies = None
        mine = self._votes.setdefault(signed.signer, {})
        known = mine.get(vote.view)
        if known is not None:
            return known if known.statement != vote else None
        mine[vote.view] = signed
        while len(mine) > VOTES_PER_VOTER_MAX:
            del mine[min(mine)]
        return None

    def contradicted_by(self, certificate: Certificate) -> list[tuple[Signed, Signed]]:
        """Votes that a checked certificate's ballots exclude: each, and the voter's other one."""
        vote = vote_of(certificate)
        told = [Signed(ballot.voter, ballot.signature, vote) for ballot in certificate.ballots]
        known = [(self.of(signed.signer, vote.view), signed) for signed in told]
        return [(one, other) for one, other in known if one and one.statement != vote]

    def has(self, signed: Signed) -> bool:
        """Whether this very vote is counted already."""
        vote = signed.statement
        if not isinstance(vote, Vote):
            return False
        return self._votes.get(signed.signer, {}).get(vote.view) == signed

    def of(self, peer: PeerId, view: int) -> Signed | None:
        """The vote of one peer in one view."""
        return self._votes.get(peer, {}).get(view)

    def count(self, view: int) -> int:
        """How many voted in a view."""
        return sum(view in mine for mine in self._votes.values())

    def newest_of(self, peer: PeerId) -> Signed | None:
        """The vote of one peer in its highest view."""
        mine = self._votes.get(peer)
        return mine[max(mine)] if mine else None

    def tallies(self) -> dict[Vote, list[Ballot]]:
        """Equal votes together, their ballots sorted by voter."""
        if self._tallies is not None:  # asked after every message
            return self._tallies
        tallies: dict[Vote, list[Ballot]] = {}
        for peer in sorted(self._votes):
            for signed in self._votes[peer].values():
                if isinstance(signed.statement, Vote):
                    ballot = Ballot(peer, signed.signature)
                    tallies.setdefault(signed.statement, []).append(ballot)
        self._tallies = tallies
        return tallies

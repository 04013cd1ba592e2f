"""What holds a large swarm together: how certificates reach those who do not sit on the committee.

A certificate of 64 voters has 25 kB: sent to 10,000 peers by each of its signers it would cost each
signer 250 MB. So above COMMITTEE_MAX members

  spread     whoever puts it together sends it to RELAY_DEGREE of the two committees, the one that
             made it and the one that it draws, each signer to the next ones in the ring
  pass on    whoever adopts it sends it to RELAY_DEGREE of its neighbours that are not known to hold
             it. A push of degree d misses e**-d of all: 0.03%, and those ask (swarm/catchup.py)
  at last    a BRANCH names the committee alone, so nobody else can tell whether a quorum was really
             lost. Where enough of the committee signed it that no quorum can be left, all follow at
             once; else only when no other block has come for long

In a small swarm everybody is on the committee and is told by the signers: nothing here happens.
"""

from __future__ import annotations

from math import inf

from p2ptrain.swarm.chain import Context, advance, committee
from p2ptrain.swarm.effects import Effect
from p2ptrain.swarm.proposals import repeatable
from p2ptrain.swarm.standing import Pending, Standing
from p2ptrain.wire.digest import digest
from p2ptrain.wire.limits import RELAY_DEGREE
from p2ptrain.wire.messages import ROUND, Certificate, Certified, Timeout
from p2ptrain.wire.peer_id import PeerId

STALLED_T_BRANCH = 6  # T_branch without another block, beside four limits of a view
ASKED_MAX = 2  # neighbours that are asked for what the committee has agreed on


class Relaying(Standing):
    """Certificates and branches beyond the committee."""

    # --- certificates -------------------------------------------------------------------------
    def _spread(self, context: Context, certificate: Certificate) -> list[Effect]:
        """We put this together: to all, or above one group to our share of both committees."""
        everyone = self._others(self.context, context)
        if self.context.is_large or context.is_large:
            everyone = self._share_of(everyone)
        return self._send(everyone, Certified(certificate))

    def _share_of(self, everyone: list[PeerId]) -> list[PeerId]:
        """RELAY_DEGREE peers of a ring; the shares of the signers cover it some times over."""
        me = self._voters.index(self.config.me) if self._is_voter else 0
        first = me * RELAY_DEGREE % max(1, len(everyone))
        return (everyone[first:] + everyone[:first])[:RELAY_DEGREE]

    def _adopt(self, now: float, context: Context, certificate: Certificate) -> list[Effect]:
        if not context.is_large:
            return super()._adopt(now, context, certificate)
        told = {*committee(self.context), *committee(context), self._sender, self.config.me}
        neighbours = [p for p in self._connected or () if p not in told]
        name, me = context.block, self.config.me.encode("ascii")
        neighbours.sort(key=lambda p: digest("relay", name, me, p.encode("ascii")))
        passed_on = self._send(neighbours[:RELAY_DEGREE], Certified(certificate))
        return passed_on + super()._adopt(now, context, certificate)

    def _informed(self) -> list[PeerId]:
        """Whom to ask what became of this view: the voters, or whoever is near."""
        if self._sits or not self.context.is_large:
            return self._other_voters()
        return sorted(self._connected or ())[:ASKED_MAX]

    # --- branches -----------------------------------------------------------------------------
    def _is_alive(self, now: float, certificate: Certificate) -> bool:
        """Whether anybody who signed a certificate is heard: a roster of the dead admits nobody."""
        return any(self._presence.is_heard(b.voter, now) for b in certificate.ballots)

    def _quorum_lost(self, now: float) -> bool:
        return self._presence.is_lost(self._voters, now)

    def _note_foreign(self, certificate: Certificate) -> None:
        """A branch went off on our block that we do not follow, or not yet."""
        if self._sits or not self.context.is_large:
            self._foreign = certificate
        elif self._foreign is None or len(self._foreign.ballots) < len(certificate.ballots):
            self._foreign = certificate
            patience = STALLED_T_BRANCH * self.config.timing.branch_s + 4 * self._views.limit
            self._at_last = self._views.entered_at + patience

    def _follow_at_last(self, now: float) -> list[Effect]:
        """Nothing else has come on our block for long: what is left of the committee goes on."""
        if now < self._at_last or self._foreign is None:
            return []
        certificate, self._at_last = self._foreign, inf
        context = advance(self.context, certificate, self.config.settings)
        return self._adopt(now, context, certificate)

    # --- roll calls ---------------------------------------------------------------------------
    def _overlooks(self, pending: Pending | None) -> bool:
        """Whether a proposer leaves out most of those who answered us: it picks the committee.

        What had to be repeated is not its choice.
        """
        if pending is None or pending.proposal.block.kind != ROUND or not self.context.is_large:
            return False
        timeouts = [s.statement for s in pending.proposal.timeouts]
        if repeatable(self.context, [t for t in timeouts if isinstance(t, Timeout)]):
            return False
        answered = self._admissions.answered(self.context)
        missing = set(answered) - set(pending.proposal.block.living)
        return 2 * len(missing) > len(answered) > 1

"""Finds the chain that a peer should be on, from whoever is ahead: a pure machine, no states.

Theory of operation
===================

  start    GetTip to everyone; go on when all have answered or TIPS_TIMEOUT_S is over
  headers  choose the tip with most rounds that we do not have, ask that peer for the certificates
           after the newest block we share, page by page; verify each on the context before it
  judge    where the chains part, branches.should_switch decides by the trunk rule; if theirs wins,
           Switched says what to drop and what to put in its place. A branch that has taken us
           in is followed; one that left us behind is not, but Averaging is told (Elsewhere)
  ...      until no peer has a tip that we neither hold nor refused; then CaughtUp

A peer that lies about its tip costs one timeout, one that sends a bad certificate is struck
(RemoteProtocolError) and the next is asked. Behind (from Averaging) begins in the middle: a peer
showed a certificate that does not follow from ours. At rest the machine asks new peers at once
and all of them every CHECK_S, for the members of two branches do not speak to each other. The tip
may move on all the while: whoever falls behind again is told so by the next certificate. States
follow in swarm/statesync.py.

The machine reads the shell's History and never changes it: the shell carries Switched out before
the next call (history.switch, Averaging.adopt, StateSync.retarget).

  catchup 1.2  more headers than were asked for
  catchup 1.3  headers that do not follow from one another
  averaging 7  a certificate that does not hold (certificates.verify_certificate)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.branches import may_follow, should_switch
from p2ptrain.swarm.certificates import Rules, verify_certificate
from p2ptrain.swarm.chain import Context, advance, sits
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.history import History, Link
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import HEADERS_MAX
from p2ptrain.wire.messages import Certificate, GetHeaders, GetTip, Headers, Message, NotHeld, Tip
from p2ptrain.wire.peer_id import PeerId

TIPS_TIMEOUT_S = 2.0  # a live peer answers in a round trip; the dead must not hold us up
CHECK_S = 10.0  # two branches between the same peers hear nothing of each other but by asking
HEADERS_TIMEOUT_S = 5.0  # a page is at most 1 MB: 4 s at 2 Mbit/s


@dataclass(frozen=True, slots=True)
class Switched:
    """Drop the blocks above the common height and put these links in their place.

    height   height of the last common block in our history
    links    verified blocks that follow it, oldest first; at least one
    context  the context after the last of them: hand it to Averaging.adopt
    """

    height: int
    links: tuple[Link, ...]
    context: Context


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Nobody who answered is on a better chain than this tip."""

    context: Context


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A branch that we do not follow begins with this certificate, on our newest block.

    Hand it to Averaging.receive as a Certified from this peer: who signed it does not vote with
    us any more, and to wait for them would be in vain.
    """

    peer: PeerId
    certificate: Certificate


Effect = Send | Switched | Elsewhere | CaughtUp


@dataclass(frozen=True, slots=True)
class _Page:
    """A request for headers that waits for its answer."""

    peer: PeerId
    known: tuple[Digest, ...]
    until: float


class CatchUp:
    """One search. Drive it: peers, then start or behind, then receive and expire."""

    def __init__(self, me: PeerId, rules: Rules, history: History) -> None:
        """Args:

        me       this peer
        rules    what certificates are verified with
        history  our chain, read only; the shell changes it
        """
        self._me = me
        self._rules = rules
        self._history = history
        self._peers: list[PeerId] = []
        self._tips: dict[PeerId, tuple[int, int, Digest]] = {}  # rounds, view, block
        self._silent: set[PeerId] = set()  # asked for their tip, no answer yet
        self._tips_until = inf
        self._check_at = inf
        self._page: _Page | None = None
        self._theirs: list[Link] = []  # verified, after the block at _base
        self._base: Context = history.genesis
        self._nonce = 0

    @property
    def running(self) -> bool:
        """Whether it searches; after CaughtUp it rests until start or behind."""
        return self._page is not None or self._tips_until < inf

    @property
    def deadline(self) -> float:
        """When expire must be called next, seconds on the caller's clock; inf: never."""
        rest = inf if self.running else self._check_at
        return min(rest, self._tips_until, self._page.until if self._page else inf)

    def peers(self, now: float, peers: Iterable[PeerId]) -> list[Effect]:
        """Whom it may ask from now on; those that are new are asked for their tip."""
        known, self._peers = set(self._peers), sorted(peers)
        self._silent &= set(self._peers)
        greet: list[Effect] = []
        if self._check_at < inf or self.running:
            new = [peer for peer in self._peers if peer not in known]
            greet = [Send(peer, GetTip(self._nonce)) for peer in new]
        for gone in [peer for peer in self._tips if peer not in self._peers]:
            del self._tips[gone]
        if self._page and self._page.peer not in self._peers:
            self._page = None
            return [*greet, *self._next(now)]
        return [*greet, *self._when_all_answered(now)]

    def start(self, now: float) -> list[Effect]:
        """Ask everyone where they stand."""
        self._nonce += 1
        self._check_at = inf
        self._silent = set(self._peers)
        self._tips_until = now + TIPS_TIMEOUT_S
        return [Send(peer, GetTip(self._nonce)) for peer in self._peers] + self._when_all_answered(
            now
        )

    def behind(self, now: float, peer: PeerId, certificate: Certificate) -> list[Effect]:
        """A peer showed a certificate that does not follow from our chain."""
        self._note(peer, certificate, self._history.tip.rounds + 1)
        return [] if self.running else self._next(now)

    def receive(self, now: float, sender: PeerId, message: Message) -> list[Effect]:
        """Take one message; those that answer nothing are ignored.

        Raises RemoteProtocolError (catchup 1, averaging 7), and then nothing has changed.
        """
        match message:
            case Tip():
                if message.certificate is not None:
                    self._note(sender, message.certificate, message.rounds)
                self._silent.discard(sender)
                if not self.running and self._ahead():
                    return self._next(now)
                return self._when_all_answered(now)
            case Headers() if self._page and sender == self._page.peer:
                return self._take(now, self._page, message)
            case NotHeld(GetHeaders()) if self._page and sender == self._page.peer:
                return self._refused(now, sender)
            case _:
                return []

    def struck(self, now: float, peer: PeerId) -> list[Effect]:
        """A peer broke the protocol, or is gone: ask another."""
        self._tips.pop(peer, None)
        self._silent.discard(peer)
        if self._page and self._page.peer == peer:
            return self._refused(now, peer)
        return self._when_all_answered(now)

    def expire(self, now: float) -> list[Effect]:
        """The deadline has come: go on without those who are silent."""
        if self._page and self._page.until <= now:
            return self._refused(now, self._page.peer)
        if not self.running and self._check_at <= now:
            return self.start(now)
        if self._tips_until <= now:
            self._silent.clear()
        return self._when_all_answered(now)

    def _note(self, peer: PeerId, certificate: Certificate, rounds: int) -> None:
        self._tips[peer] = (rounds, certificate.view, block_digest(certificate.block))

    def _when_all_answered(self, now: float) -> list[Effect]:
        if self._tips_until == inf or self._silent:
            return []
        self._tips_until = inf
        return [] if self._page else self._next(now)

    def _next(self, now: float) -> list[Effect]:
        """Ask the peer with the most rounds whose tip we do not have, or be done."""
        if self._tips_until < inf:
            return []
        self._theirs = []
        ahead = self._ahead()
        if not ahead:
            self._tips.clear()
            self._check_at = now + CHECK_S
            return [CaughtUp(self._history.tip)]
        peer = max(sorted(ahead), key=lambda p: ahead[p][:2])
        return [self._ask(now, peer, self._history.known())]

    def _ahead(self) -> dict[PeerId, tuple[int, int, Digest]]:
        """The peers whose tip we do not have."""
        return {p: t for p, t in self._tips.items() if self._history.height_of(t[2]) is None}

    def _ask(self, now: float, peer: PeerId, known: tuple[Digest, ...]) -> Send:
        self._page = _Page(peer, known, now + HEADERS_TIMEOUT_S)
        return Send(peer, GetHeaders(known, HEADERS_MAX))

    def _refused(self, now: float, peer: PeerId) -> list[Effect]:
        """The peer's tip leads nowhere: forget it and ask the next."""
        self._tips.pop(peer, None)
        self._page = None
        return self._next(now)

    def _take(self, now: float, page: _Page, headers: Headers) -> list[Effect]:
        start = self._start_of(page, headers.after)
        if start is None:  # the late answer to an earlier request
            return []
        base, so_far = start
        context = so_far[-1].context if so_far else base
        links = so_far + self._verified(page.peer, context, headers)
        self._base, self._theirs, self._page = base, links, None
        if len(headers.certificates) == HEADERS_MAX:
            known = (links[-1].context.block, *self._history.known())
            return [self._ask(now, page.peer, known)]
        self._tips.pop(page.peer, None)
        decision = self._judge(page.peer)
        if decision is None:
            return self._next(now)
        self._silent.clear()
        self._tips_until = now  # look at the other tips once the shell has carried it out
        return [decision]

    def _judge(self, peer: PeerId) -> Switched | Elsewhere | None:
        """Whether their chain, complete now, is to take the place of ours."""
        height = self._history.height_of(self._base.block)
        if height is None:
            return None
        links = self._theirs
        while links and self._history.height_of(links[0].context.block) is not None:
            height, links = height + 1, links[1:]  # ours grew while we asked
        if not links:
            return None
        ours = [link.certificate for link in self._history.after(height)]
        theirs = [link.certificate for link in links]
        common = self._history.context(height)
        tip = links[-1].context
        # A branch keeps whoever was not on the committee that it left: that is no invitation.
        left_alone = common.member(self._me) is not None and not sits(common, self._me)
        needed_there = not ours and tip.member(self._me) is not None and not left_alone
        # Most went over to it, and one of them is alive: it has just told us.
        gone_there = tip.member(peer) and not ours and may_follow(common, theirs, self._me, False)
        follow = should_switch(common, ours, theirs, self._me) or needed_there or gone_there
        if not follow:
            return None if ours else Elsewhere(peer, theirs[0])
        return Switched(height, tuple(links), links[-1].context)

    def _start_of(self, page: _Page, after: Digest) -> tuple[Context, list[Link]] | None:
        """The context that the page builds on: the end of the last page, or a block of ours."""
        if self._theirs and after == self._theirs[-1].context.block:
            return self._base, self._theirs
        height = self._history.height_of(after)
        if after not in page.known or height is None:
            return None
        return self._history.context(height), []

    def _verified(self, peer: PeerId, context: Context, headers: Headers) -> list[Link]:
        if len(headers.certificates) > HEADERS_MAX:
            raise RemoteProtocolError(peer, "catchup 1.2", f"{len(headers.certificates)} headers")
        links = []
        for certificate in headers.certificates:
            if certificate.block.parent != context.block:
                raise RemoteProtocolError(peer, "catchup 1.3", "headers with a gap")
            verify_certificate(self._rules, context, certificate, peer)
            context = advance(context, certificate, self._rules.settings)
            links.append(Link(certificate, context))
        return links

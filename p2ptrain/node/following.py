"""What every node does that follows a run: find its chain, bring the state to it.

  catchup     finds the chain that this peer should be on   swarm/catchup.py
  statesync   fetches states and certified shards           swarm/statesync.py

Machines know neither each other nor the network. Messages are dealt out to both, each takes what
is its own; effects are carried out in order by the machine's drive loop. A node that takes part
has a third machine beside them (node/machines.py); one that only serves a run has these two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Generic

import trio

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.node.applied import AppliedState, KeeperT
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.node.drive import Inbox, drive
from p2ptrain.node.peers import Peers
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.swarm.catchup import CatchUp, CaughtUp, Elsewhere, Switched
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.inputs import Wait
from p2ptrain.swarm.statesync import ApplyReduced, LoadState, Rollback, StateSync
from p2ptrain.wire.messages import Message
from p2ptrain.wire.peer_id import PeerId

CatchUpEffect = Send | Switched | Elsewhere | CaughtUp
SyncEffect = Send | Rollback | LoadState | ApplyReduced


@dataclass(kw_only=True)
class Following(Generic[KeeperT]):
    """The two machines and their shells.

    nursery    owns the tasks that run beside the drive loops
    on_chain   called when the chain has moved, or work on it has died
    caught_up  set when nobody who answered is on a better chain
    """

    nursery: trio.Nursery
    peers: Peers
    telemetry: Telemetry
    state: AppliedState[KeeperT]
    catchup: CatchUp
    statesync: StateSync
    on_chain: Callable[[], None]
    caught_up: trio.Event = field(default_factory=trio.Event)
    to_catchup: Inbox[CatchUpEffect] = field(default_factory=Inbox)
    to_statesync: Inbox[SyncEffect] = field(default_factory=Inbox)
    _news: trio.Event = field(default_factory=trio.Event)
    _died: ComputeDied | None = None
    _known: frozenset[PeerId] = frozenset()

    def start(self) -> None:
        """Start both machines."""
        start = self.nursery.start_soon
        start(drive, self.catchup, self.to_catchup, self._carry_out_catchup, self._strike_catchup)
        start(drive, self.statesync, self.to_statesync, self._carry_out_sync, self._strike_sync)

    @property
    def news(self) -> trio.Event:
        """Set when something has moved; a new one each time."""
        return self._news

    # --- what comes in ----------------------------------------------------------------------
    def deliver(self, sender: PeerId, message: Message) -> None:
        """Deal a message out. A full inbox drops it: machines never rely on delivery."""
        self.to_catchup.offer_from(sender, message, self.catchup.receive)
        self.to_statesync.offer_from(sender, message, self.statesync.receive)

    def peers_changed(self) -> None:
        """Somebody came or went."""
        connected = self.peers.connected
        self.to_catchup.post(lambda now: self.catchup.peers(now, connected))
        # Somebody new may be on a better chain, and is asked; once we know where the others are,
        # he alone: 32 peers that met at the same time sent one another 17,000 questions.
        if connected - self._known and not self.caught_up.is_set():
            self.to_catchup.post(self.catchup.start)
        self._known = connected
        self.to_statesync.post(lambda now: self.statesync.peers(now, connected))

    async def sync(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Fetch what leads to the tip; returns when the state is there, or until() holds.

        Raises ComputeDied.
        """
        began = trio.current_time()
        with self.telemetry.waits(lambda: self._waits(began)):
            while not (self.state.level or until()):
                self.check_compute()
                news = self._news
                self.to_statesync.post(self._follow)
                await news.wait()

    def _waits(self, began: float) -> list[Wait]:
        behind = self.state.history.height - (self.state.height or 0)
        progress = self.statesync.progress
        fetched = f"{progress.done} of {progress.total} parts here"
        return [Wait(f"the state after {behind} more blocks: {fetched}", began, inf)]

    def notice(self) -> None:
        """The chain or the state has moved, or somebody wants to leave: sync looks again."""
        news, self._news = self._news, trio.Event()
        news.set()

    def check_compute(self) -> None:
        """Raise ComputeDied if it died on a task that nobody waits for, and is still dead."""
        died, self._died = self._died, None
        if died is not None and not self.state.compute.alive:
            raise died

    def _follow(self, now: float) -> Sequence[SyncEffect]:
        """A step of StateSync, which first hears where the state really is: what we reduced
        ourselves needs no fetching, and what was on its way when the compute process died does.
        """
        return [*self.statesync.applied(now, self.state.block), *self.statesync.follow(now)]

    def _compute_died(self, error: ComputeDied) -> None:
        self._died = error
        self.notice()
        self.on_chain()

    # --- effects ----------------------------------------------------------------------------
    def _after_switch(self, switched: Switched) -> None:
        """The history has other blocks now: who else must know is told here."""

    def _after_elsewhere(self, elsewhere: Elsewhere) -> None:
        """There is a branch that we do not follow: who must know is told here."""

    async def _carry_out_catchup(self, effect: CatchUpEffect) -> bool:
        match effect:
            case Send(to, message):
                self.peers.send(to, message)
            case Switched(height, links, _):
                if not await self.state.switch(height, links):
                    self.to_catchup.post(self.catchup.start)
                    return False
                self._after_switch(effect)
                self.to_statesync.post(self._follow)
                self.on_chain()
            case Elsewhere():
                self._after_elsewhere(effect)
            case CaughtUp():
                if self._known:
                    self.caught_up.set()
        return False

    async def _carry_out_sync(self, effect: SyncEffect) -> bool:
        if isinstance(effect, Send):
            self.peers.send(effect.to, effect.message)
            return False
        try:
            await self.state.sync(effect)
        except ComputeDied as error:
            self._compute_died(error)
        self.notice()
        return False

    # --- faults -----------------------------------------------------------------------------
    def _strike_catchup(self, error: RemoteProtocolError) -> None:
        self.peers.strike(error)
        peer = PeerId(error.peer)
        self.to_catchup.post(lambda now: self.catchup.struck(now, peer))

    def _strike_sync(self, error: RemoteProtocolError) -> None:
        self.peers.strike(error)
        peer = PeerId(error.peer)
        self.to_statesync.post(lambda now: self.statesync.lost(now, peer))
        # It may be asked again until it is let go: there may be nobody else.
        connected = self.peers.connected
        self.to_statesync.post(lambda now: self.statesync.peers(now, connected))

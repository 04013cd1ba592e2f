"""The life of a simulated process: it runs, is killed between two effects, and starts again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simnet.world import World


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take beside local training.

    reduce_s        in the compute process
    apply_s         until a state that was reduced is on the disk
    item_timeout_s  for state pieces and reduced shards
    batch           samples in a local step; 0: those of a contribution are drawn
    local_steps     the most that a peer takes in a round; its train_s is of so many
    """

    reduce_s: float = 0.01
    apply_s: float = 0.03
    item_timeout_s: float = 3.0
    batch: int = 0
    local_steps: int = 1


USUAL_PACE = Pace()


class DiedError(Exception):
    """The process was killed between two effects; its storage has the first of them."""


class Process:
    """What dies and lives again; a Shell says what it does meanwhile."""

    def __init__(self, world: World, name: str) -> None:
        """Not running yet."""
        self.world = world
        self.name = name
        self.running = False
        self.life = 0  # boots so far: what an earlier life began is void
        self.fuse: int | None = None  # effects that are still carried out; None: no end in sight

    def crash(self) -> None:
        """Lose everything but the storage."""
        self.running = False
        self.fuse = None

    def burn(self) -> None:
        """One more effect is about to be carried out."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise DiedError

    def alive(self, action: Callable[[], None]) -> None:
        """Do something, as far as the process lives."""
        try:
            action()
        except DiedError:
            self.world.record(f"{self.name} dies between two effects")
            self.crash()

    def later(self, at: float, action: Callable[[], None]) -> None:
        """Do something at a time, if this life lasts so long."""
        life = self.life

        def in_this_life() -> None:
            if self.running and self.life == life:
                self.alive(action)

        self.world.at(at, self.name, in_this_life)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something so many seconds from now, if this life lasts so long."""
        self.later(self.world.now + delay_s, action)

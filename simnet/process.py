"""The life of a simulated process: it runs, is killed between two effects, and starts again."""

from __future__ import annotations

from collections.abc import Callable

from simnet.world import World


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

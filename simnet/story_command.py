"""`python -m simnet STORY`: what is shown while a story runs, and what is left of it."""

# ruff: noqa: T201 (what a command says goes to the terminal)

import argparse
import json
import sys
import time
from pathlib import Path

from p2ptrain.errors import ConfigError
from simnet.checkers import ViolationError
from simnet.story import find_story, read_story, task_of
from simnet.story_report import Report, picture_of, report_of, text_of
from simnet.story_run import Progress, Run

SHOWN_EVERY_S = 1.0
INTERRUPTED = 130  # as shells have it
UNUSABLE = 2  # as argparse has it


def tell(options: argparse.Namespace) -> int:
    """Run the story that the options name.

    Returns 0: all its rounds were certified; 1: not all were, or a property broke; 2: it cannot be
    told; 130: interrupted.
    """
    try:
        return _tell(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    except ViolationError as error:
        print(f"\na property of the protocol broke: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is left of the story", file=sys.stderr)
        return INTERRUPTED


def _tell(options: argparse.Namespace) -> int:
    path = find_story(options.story)
    story = read_story(path)
    if options.seed is not None:
        story = story.model_copy(update={"seed": options.seed})
    if options.plot is not None and not options.plot.parent.is_dir():
        raise ConfigError(f"--plot {options.plot}: there is no folder {options.plot.parent}")
    run = Run(story, task_of(story.recipe, path.parent), _Shown(story.rounds))
    started = time.perf_counter()
    run.go()
    report = report_of(run)
    print(file=sys.stderr)
    print(json.dumps(report.values) if options.json else text_of(report))
    if not options.json:
        print(f"  {time.perf_counter() - started:.1f} s of this machine's time")
    if options.plot is not None:
        _plot(options.plot, report)
    return 0 if report.rounds >= report.rounds_asked else 1


def _plot(path: Path, report: Report) -> None:
    try:
        path.write_bytes(picture_of(report))
    except OSError as error:
        raise ConfigError(f"cannot write the picture {path}: {error.strerror}") from None


class _Shown:
    """A line on the terminal, once a second."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._at = self._started = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        if now < self._at + SHOWN_EVERY_S:
            return
        self._at = now
        line = (
            f"\r{progress.rounds}/{self._rounds} rounds, {progress.virtual_s:.0f} s of virtual "
            f"time, {progress.events} events, {now - self._started:.0f} s "
        )
        print(line, end="", file=sys.stderr, flush=True)

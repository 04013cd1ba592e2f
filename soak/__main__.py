"""Real processes under real faults, for as long as you like.

    python -m soak pair                           one of two killed and started again (pair.py)
    python -m soak crashes --times 20 --seed 1    all peers killed and started again (crashes.py)
    python -m soak chaos --seconds 600 --seed 1   four under kills, freezes, restarts (chaos.py)

Exits with 1 when something went wrong and then keeps homes and logs, and says where. A seed fixes
which faults strike and when; what the processes are doing at that moment is up to the machine.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from p2ptrain.net.unwrapping import lone_exception
from soak.chaos import Chaos, run_chaos
from soak.crashes import KILLS_PER_STORY, Kill, run_story
from soak.ground import SoakFailed
from soak.pair import Reunion, run_pair


def say(line: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def crashes(times: int, seed: int, keep: bool) -> bool:
    """So many kills of all peers, a few a swarm; whether all went well."""
    say("  moment  at round   resumed   next round after s")

    def tell(kill: Kill) -> None:
        after = "the end" if kill.resume_s < 0 else f"{kill.resume_s:.1f}"
        say(f"{kill.moment:>8} {kill.at_round:9} {kill.resumed:9} {after:>20}")

    for story, done in enumerate(range(0, times, KILLS_PER_STORY)):
        kills = min(KILLS_PER_STORY, times - done)

        async def play(folder: Path, story: int = story, kills: int = kills) -> None:
            await run_story(folder, 1000 * seed + story, kills, tell)

        if not in_a_folder(play, keep):
            return False
        say(f"swarm {story + 1}: one state, no contradiction")
    return True


def pairs(keep: bool) -> bool:
    """Both cases of a pair; whether all went well."""

    def tell(reunion: Reunion) -> None:
        when = "at once" if reunion.at_once else "after the branch"
        say(
            f"killed, and back {when}: next round {reunion.next_round_s:.1f} s after the kill, "
            f"one hash {reunion.one_hash_s:.1f} s after the restart"
        )

    return all(
        in_a_folder(lambda folder, at_once=at_once: run_pair(folder, at_once, tell), keep)  # type: ignore[misc]
        for at_once in (True, False)
    )


def in_a_folder(play: Callable[[Path], Awaitable[None]], keep: bool) -> bool:
    """Run a story in a folder of its own, which is kept if it goes wrong, or if that is wanted."""
    folder = Path(tempfile.mkdtemp(prefix="p2ptrain-soak-"))
    try:
        with lone_exception():
            trio.run(play, folder)
    except SoakFailed as error:
        say(f"FAILED: {error}\nhomes and logs: {folder}")
        return False
    if keep:
        say(f"homes and logs: {folder}")
    else:
        shutil.rmtree(folder)
    return True


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__.split("\n")[0])
    which = parser.add_subparsers(dest="which", required=True)
    kills = which.add_parser("crashes", help="all peers killed at once, and started again")
    kills.add_argument("--times", type=int, default=20)
    kills.add_argument("--seed", type=int, default=1)
    chaos = which.add_parser("chaos", help="four peers under kills, freezes and restarts")
    chaos.add_argument("--seconds", type=float, default=600.0)
    chaos.add_argument("--seed", type=int, default=1)
    chaos.add_argument("--calm", action="store_true", help="no faults: for the memory alone")
    pair = which.add_parser("pair", help="one of two killed and started again")
    for command in (kills, chaos, pair):
        command.add_argument("--keep", action="store_true", help="keep homes and logs in any case")
    options = parser.parse_args()
    if options.which == "crashes":
        return 0 if crashes(options.times, options.seed, options.keep) else 1
    if options.which == "pair":
        return 0 if pairs(options.keep) else 1
    asked = Chaos(options.seconds, options.seed, faults=not options.calm)
    return 0 if in_a_folder(lambda folder: run_chaos(folder, asked, say), options.keep) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Whole runs of a bundled recipe on one machine, beside PyTorch with the same recipe.

    python -m benchmarks.runs fashion-convnet [--torch .venv-bench/bin/python] [--threads 2]
    python -m benchmarks.runs shakespeare-char

Ours is `p2ptrain seed dataset`, then `p2ptrain join` of one peer in an empty home: from process
start to the last round, with evaluation, certificates and checkpoints. PyTorch's is its training
loop alone (runs_torch.py); its start and its evaluations are not counted. One after the other on
the same cores. Ours has a second figure, its training seconds, to compare with the loop.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from p2ptrain.data.shipped import SHAKESPEARE, recipe_path

FASHION_DATA = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist
POINTS = 12


def say(line: str) -> None:
    """One line of the report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def ours(recipe: str, threads: int, keep: Path | None) -> None:
    """Train with a peer of our own, and print its curve and its cost."""
    # The licence is a part of the manifest, and so of its CID.
    fashion = [str(FASHION_DATA), "--licence", "MIT"]
    data = [SHAKESPEARE] if recipe.startswith("shakespeare") else fashion
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "P2PTRAIN_HOME": folder, "P2PTRAIN_NO_MDNS": "1"}
        program = [sys.executable, "-W", "ignore", "-m", "p2ptrain.cli.main"]
        seed = [*program, "seed", "dataset", *data, "--once"]
        subprocess.run(seed, env=environment, check=True, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        join = [*program, "join", "--swarm", str(recipe_path(recipe)), "--json"]
        join += ["--threads", str(threads)]
        events: list[dict[str, Any]] = []
        with subprocess.Popen(join, env=environment, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdout is not None
            events.extend(json.loads(line) for line in peer.stdout)
        whole_s = time.monotonic() - began
        if peer.returncode:
            raise SystemExit(f"the peer ended with {peer.returncode}")
        if keep is not None:
            curve = next(event["path"] for event in events if event["event"] == "curve")
            shutil.copy(curve, keep)
    report(events, whole_s)


def report(events: list[dict[str, Any]], whole_s: float) -> None:
    """The curve, thinned out, and the figures at the end."""
    rounds = [event for event in events if event["event"] == "round"]
    fresh = [event for event in rounds if event["evaluated_round"] == event["round"]]
    say("p2ptrain    round    seconds   test loss   accuracy")
    for event in fresh[:: max(1, len(fresh) // POINTS)]:
        say(f"{event['round']:17} {event['t']:10.1f} {event['loss']:11.4f} "
            f"{event['accuracy']:10.4f}")  # fmt: skip
    done = next(event for event in events if event["event"] == "done")
    energy = next(event for event in events if event["event"] == "energy")
    training_s = sum(event["seconds"] for event in events if event["event"] == "trained")
    say(f"p2ptrain: test loss {done['loss']:.4f}, accuracy {done['accuracy']:.4f}; {whole_s:.0f} s "
        f"from start to end, {training_s:.0f} s of them local steps; {energy['text']}")  # fmt: skip


def torchs(recipe: str, threads: int, python: str) -> None:
    """Train with PyTorch, and print its curve."""
    text = recipe.startswith("shakespeare")
    data = text_file() if text else FASHION_DATA
    command = [python, "-W", "ignore", "-m", "benchmarks.runs_torch", str(recipe_path(recipe))]
    done = subprocess.run(
        [*command, str(data), str(threads)], check=True, stdout=subprocess.PIPE, text=True
    )
    say("torch       round    seconds   test loss   accuracy   CPU s")
    for line in done.stdout.splitlines():
        point = json.loads(line)
        say(f"{point['round']:17} {point['seconds']:10.1f} {point['loss']:11.4f} "
            f"{point['accuracy']:10.4f} {point['cpu_s']:7.0f}")  # fmt: skip


def text_file() -> Path:
    """The bundled text, unpacked."""
    import bz2

    from p2ptrain.data.shipped import SHAKESPEARE_PATH

    path = Path(tempfile.gettempdir()) / "p2ptrain-benchmark-text.txt"
    path.write_bytes(bz2.decompress(SHAKESPEARE_PATH.read_bytes()))
    return path


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=["fashion-convnet", "shakespeare-char"])
    parser.add_argument("--torch", help="a Python that has torch; without it only ours runs")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--curve", type=Path, help="where to put the picture of our run")
    arguments = parser.parse_args()
    ours(arguments.recipe, arguments.threads, arguments.curve)
    if arguments.torch:
        torchs(arguments.recipe, arguments.threads, arguments.torch)


if __name__ == "__main__":
    main()

"""One program of the engine's benchmark: one framework, one workload, steps when it is told.

    python -m benchmarks.engine_program SIDE MODEL --cores 0 [--variant V]

benchmarks/engine.py starts it and talks to it in lines. It takes its first step unasked and says
so; from then on each line on stdin is a number of steps, and each answer one JSON object on
stdout: seconds, CPU seconds of all threads, the loss at the end and the process's peak memory.
Between two lines it sleeps.
"""

import argparse
import importlib
import json
import os
import resource
import sys
import time

SIDES = {
    "p2ptrain": "benchmarks.engine_ours",
    "torch": "benchmarks.engine_torch",
    "compiled": "benchmarks.engine_torch",
    "tinygrad": "benchmarks.engine_tinygrad",
    "peak": "benchmarks.engine_peak",
}


def answer(seconds: float, cpu_seconds: float, loss: float) -> None:
    """Write one answer."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = {"seconds": seconds, "cpu_s": cpu_seconds, "loss": loss, "memory_mb": memory}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Take steps until stdin ends."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=sorted(SIDES))
    parser.add_argument("model")
    parser.add_argument("--cores", required=True, help="numbers with commas between")
    parser.add_argument("--variant", default="")
    options = parser.parse_args()
    cores = {int(core) for core in options.cores.split(",")}
    os.sched_setaffinity(0, cores)
    side = importlib.import_module(SIDES[options.side])
    run = side.make(options.model, len(cores), options.variant)
    loss = run(1)
    answer(time.perf_counter() - started, time.process_time(), loss)
    for line in sys.stdin:
        begun, used = time.perf_counter(), time.process_time()
        loss = run(int(line))
        answer(time.perf_counter() - begun, time.process_time() - used, loss)


if __name__ == "__main__":
    main()

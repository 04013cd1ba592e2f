"""How fast the engine trains, beside PyTorch and tinygrad on the same cores, in one run.

    make bench-engine                       # its own environment, with both of them
    python -m benchmarks.engine [--only mlp,gpt] [--threads 1,2] [--slices 5] [--starts] [--json]

Read the figures as ratios: the load of the machine moves all of them. Of each program: the median
and the best of the slices that the programs took in turn (engine_runs.py), the products of a step
a second (engine_models.py), their share of the machine's peak of multiply-adds as a loop of them
reaches it in the same run, and torch's time over its time, above 1 if it is faster than torch. The
CPU time, the least of the slices and of all threads together, is what others on the machine disturb
the least: on one thread and a quiet machine it is the time. The memory is the most that the process
had, with the framework in it. --starts times something else: from the start of the process to the
end of its first step, with an empty cache of kernels (once) and with a warm one (median).

Programs whose framework is not installed are left out. --sides p2ptrain,torch,compiled adds torch
with torch.compile, which needs a C++ compiler.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine_models import WORKLOADS, Workload
from benchmarks.engine_runs import Program, ProgramFailed, Timed, start_times, take_turns

SIDES = ("p2ptrain", "torch", "tinygrad")
NEEDS = {"torch": "torch", "compiled": "torch", "tinygrad": "tinygrad"}
LAYOUTS = {"cnn": ("last", ""), "resnet": ("last", "")}
OPTIMIZERS = ("fused", "foreach")
HEAD = "program       median ms   best ms   CPU ms  GFLOP/s  of peak     MB  speed of torch's"


def say(line: str) -> None:
    """One line of the report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cache_folder() -> Path:
    """Where compiled kernels lie between runs of the benchmark."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "p2ptrain-benchmark"


def variants(side: str, model: str, cores: tuple[int, ...]) -> list[Program]:
    """The forms of a program that are tried."""
    if side == "compiled":
        return [Program(side, model, cores, "compile,fused,last")]
    if side != "torch":
        return [Program(side, model, cores)]
    return [
        Program(side, model, cores, ",".join(filter(None, (optimizer, layout))))
        for optimizer in OPTIMIZERS
        for layout in LAYOUTS.get(model, ("",))
    ]


def rows_of(results: Sequence[Timed], workload: Workload) -> list[dict[str, object]]:
    """What the table says of each program, the peak left out."""
    peak = max(timed.peak for timed in results)
    torch = next((timed for timed in results if timed.program.side == "torch"), None)
    rows: list[dict[str, object]] = []
    for timed in results:
        if timed.program.side == "peak":
            continue
        rows.append(
            {
                "model": timed.program.model,
                "threads": len(timed.program.cores),
                "program": timed.program.side,
                "variant": timed.program.variant,
                "median_ms": 1e3 * timed.median,
                "best_ms": 1e3 * timed.best,
                "cpu_ms": 1e3 * min(timed.cpu),
                "gflops": workload.gflop / timed.best,
                "of_peak": workload.gflop / timed.best / peak,
                "memory_mb": timed.memory_mb,
                "speed_median": torch.median / timed.median if torch else None,
                "speed_best": torch.best / timed.best if torch else None,
                "speed_cpu": min(torch.cpu) / min(timed.cpu) if torch else None,
                "slices": len(timed.seconds),
                "steps": timed.steps,
                "peak_gflops": peak,
            }
        )
    return rows


def line_of(row: dict[str, object]) -> str:
    """A row as the table has it."""
    speed = ""
    if row["speed_median"] is not None:
        kinds = ("median", "best", "cpu")
        speed = " ".join(f"{row[f'speed_{kind}']:5.2f} {kind}" for kind in kinds)
    return (
        f"{row['program']:12} {row['median_ms']:10.2f} {row['best_ms']:9.2f} {row['cpu_ms']:8.2f} "
        f"{row['gflops']:8.0f} {row['of_peak']:8.0%} {row['memory_mb']:6.0f}  "
        f"{speed} {row['variant']}"
    )


def measure_steps(
    model: str, cores: tuple[int, ...], sides: Sequence[str], options: argparse.Namespace
) -> None:
    """Time the steps of one model on so many cores, and print them."""
    workload = WORKLOADS[model]
    programs = [[Program("peak", model, cores)], *(variants(side, model, cores) for side in sides)]
    rows = rows_of(take_turns(programs, options.slices, cache_folder()), workload)
    if options.json:
        for row in rows:
            say(json.dumps(row))
        return
    say(
        f"\n{workload.title}, batch {workload.batch}, threads: {len(cores)}; "
        f"{workload.gflop:.2f} GFLOP a step, peak {rows[0]['peak_gflops']:.0f} GFLOP/s"
    )
    say(HEAD)
    for row in rows:
        say(line_of(row))


def measure_starts(
    model: str, cores: tuple[int, ...], sides: Sequence[str], options: argparse.Namespace
) -> None:
    """Time the starts of each program, and print them."""
    for side in sides:
        program = variants(side, model, cores)[0]
        cold, warm = start_times(program, options.slices)
        row = {"model": model, "threads": len(cores), "program": side, "cold_s": cold}
        row |= {"warm_median_s": statistics.median(warm), "warm_best_s": min(warm)}
        if options.json:
            say(json.dumps(row))
        else:
            say(
                f"{model:8} {side:10} threads: {len(cores)}  first step after {cold:6.2f} s cold, "
                f"{row['warm_median_s']:.2f} s warm (best {row['warm_best_s']:.2f})"
            )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="models, commas between")
    parser.add_argument("--sides", default=",".join(SIDES), help="programs, commas between")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--slices", type=int, default=5)
    parser.add_argument("--starts", action="store_true", help="time the starts, not the steps")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    sides = [
        side
        for side in options.sides.split(",")
        if side not in NEEDS or importlib.util.find_spec(NEEDS[side])
    ]
    available = sorted(os.sched_getaffinity(0))
    failed = False
    for model in options.only.split(","):
        for threads in sorted({min(int(t), len(available)) for t in options.threads.split(",")}):
            measure = measure_starts if options.starts else measure_steps
            try:
                measure(model, tuple(available[-threads:]), sides, options)
            except ProgramFailed as error:
                failed = True
                say(f"\n{model}, threads: {threads}: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()

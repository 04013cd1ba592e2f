"""Where the time of a training step goes, launch by launch.

    python -m benchmarks.engine_profile --model mlp [--threads 1] [--steps 40] [--by kernel]

The launches of one step, as the plan recorded them and with the optimiser's behind, are enqueued
into a queue that takes times: from the start to the end of each on the device. The table says of
each launch its integer arguments by name, the least of its microseconds, and of products,
convolutions and attention the GFLOP/s. The last line compares the sum with the step as
the program takes it: what is over is the queue, the host and the losses.
"""

import argparse
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyopencl as cl

from benchmarks.engine_models import WORKLOADS, make_indices
from p2ptrain.device.kernels import Launch, source_folder
from p2ptrain.device.opencl import open_device
from p2ptrain.train.local import Trainer

FUNCTION = re.compile(r"void\s+(\w+)\s*\(([^)]*)\)")
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Measured:
    """One launch of the step.

    label   name and integer arguments
    micros  least on the device
    gflop   of a product, else 0
    """

    label: str
    micros: float
    gflop: float


def argument_names() -> dict[str, list[str]]:
    """Of each kernel the names of its arguments, from the sources: few drivers tell them."""
    names: dict[str, list[str]] = {}
    for path in sorted(source_folder().glob("*.cl")):
        text = COMMENT.sub("", path.read_text("utf-8"))
        for kernel, arguments in FUNCTION.findall(text):
            parts = [part.split() for part in arguments.split(",")]
            names[kernel] = [words[-1].lstrip("*") for words in parts if words]
    return names


def describe(launch: Launch, names: dict[str, list[str]]) -> tuple[str, float]:
    """Label and GFLOP of a launch."""
    arguments = launch._arguments
    known = names.get(launch.name, [])
    if len(known) != len(arguments):
        known = [str(i) for i in range(len(arguments))]
    sizes = {
        name: int(value)
        for name, value in zip(known, arguments, strict=True)
        if isinstance(value, np.int32) and not name.endswith("offset")
    }
    groups = "x".join(
        str(whole // local)
        for whole, local in zip(launch._global_size, launch._local_size, strict=True)
    )
    text = " ".join(f"{name}={value}" for name, value in sizes.items())
    return f"{launch.name} [{groups}] {text}", 2e-9 * multiply_adds(launch.name, sizes)


def multiply_adds(kernel: str, n: dict[str, int]) -> float:
    """Multiply-adds of a kernel that multiplies matrices, by its arguments; else 0."""
    match kernel:
        case _ if {"M", "N", "K"} <= n.keys():
            return n["M"] * n["N"] * n["K"]
        case "conv_tiled":
            return n["rows"] * n["z_width"] * n["N"] * n["C"] * n["taps"] ** 2
        case "weight_gradient_tiled":
            return n["pixels"] * n["N"] * n["C"] * n["taps"] ** 2
        case "input_gradient_tiled":
            images = n["rows"] / n["height"]
            return images * n["d_height"] * n["d_width"] * n["N"] * n["C"] * n["taps"] ** 2
        case "attention_forward_tiled" | "attention_backward_tiled":
            products = 2 if kernel == "attention_forward_tiled" else 5
            return products * n["B"] * n["H"] * n["D"] * n["T"] * (n["T"] + 1) / 2
        case _:
            return 0


def step_launches(trainer: Trainer) -> list[Launch]:
    """The launches of one training step, the optimiser's last."""
    return [*trainer.plan().launches, *trainer._optimizer._launches]


def timed(launches: Sequence[Launch], steps: int) -> list[float]:
    """Least microseconds of each launch on the device; the queue must take times."""
    times: list[list[float]] = [[] for _ in launches]
    for _ in range(steps):
        events = [
            cl.enqueue_nd_range_kernel(e._queue, e.kernel, e._global_size, e._local_size)
            for e in launches
        ]
        events[-1].wait()
        for found, event in zip(times, events, strict=True):
            found.append(1e-3 * (event.profile.end - event.profile.start))
    return [min(found) for found in times]


def measure(launches: Sequence[Launch], steps: int) -> list[Measured]:
    """Each launch with its time."""
    names = argument_names()
    rows = []
    for launch, micros in zip(launches, timed(launches, steps), strict=True):
        label, gflop = describe(launch, names)
        rows.append(Measured(label, micros, gflop))
    return rows


def report(rows: Sequence[Measured], by: str) -> list[str]:
    """The table's lines: launches in order, or summed up by kernel or by label."""
    total = sum(row.micros for row in rows)
    groups: dict[str, list[Measured]] = defaultdict(list)
    for i, row in enumerate(rows):
        key = {"launch": f"{i:3} {row.label}", "shape": row.label, "kernel": row.label.split()[0]}
        groups[key[by]].append(row)
    lines = [f"{'us':>9} {'share':>6} {'count':>5} {'GFLOP/s':>8}  launch"]
    found = list(groups.items())
    if by != "launch":
        found.sort(key=lambda item: -sum(row.micros for row in item[1]))
    for label, members in found:
        micros = sum(row.micros for row in members)
        gflop = sum(row.gflop for row in members)
        rate = f"{gflop / micros * 1e6:8.0f}" if gflop else " " * 8
        lines.append(f"{micros:9.1f} {micros / total:6.1%} {len(members):5} {rate}  {label}")
    return lines


def plain_step_us(trainer: Trainer, name: str, steps: int) -> float:
    """Microseconds of a step as the program takes it, the best of several rounds."""
    start = trainer.parameters()
    order = make_indices(WORKLOADS[name], 16)
    times = []
    for _ in range(max(3, steps // 8)):
        begun = time.perf_counter()
        trainer.pseudo_gradient(start, order)
        times.append((time.perf_counter() - begun) / len(order))
    return 1e6 * min(times)


def main() -> None:
    """Profile one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(WORKLOADS), default="mlp")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--by", choices=("launch", "shape", "kernel"), default="shape")
    options = parser.parse_args()
    if options.threads:
        os.environ["POCL_MAX_PTHREAD_COUNT"] = str(options.threads)
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    from benchmarks.engine_ours import make_trainer

    device = open_device()
    device.queue = cl.CommandQueue(
        device.context, properties=cl.command_queue_properties.PROFILING_ENABLE
    )
    trainer = make_trainer(options.model, device)
    trainer.set_parameters(trainer.initial_parameters())
    step = plain_step_us(trainer, options.model, options.steps)
    rows = measure(step_launches(trainer), options.steps)
    total = sum(row.micros for row in rows)
    lines = report(rows, options.by)
    gflop = WORKLOADS[options.model].gflop
    sys.stdout.write(
        "\n".join(lines)
        + f"\n{total:9.1f} us in {len(rows)} launches; a step of the program takes {step:.1f} us, "
        f"{gflop / step * 1e6:.0f} GFLOP/s of its products\n"
    )


if __name__ == "__main__":
    main()

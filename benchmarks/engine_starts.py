"""The start of a compute process of ours: from its start to the end of its first local step.

It is the very process that a node starts, asked the very questions: open the device and test it,
draw the initial parameters, take one step. The data lie in shared memory before, as they do when a
process that died is started again.
"""

import os
import time
from pathlib import Path

import numpy as np
import trio

from benchmarks.engine_models import WORKLOADS, is_text, make_images, make_indices, make_tokens
from benchmarks.engine_ours import EVALUATED, NETWORKS, inner_config
from p2ptrain.node.compute import open_compute
from p2ptrain.train.local import Presentation
from p2ptrain.train.outer import OuterConfig
from p2ptrain.train.run_settings import Averaging, RunSettings
from p2ptrain.train.worker_messages import ComputeSpec, TrainingArrays
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import SHARD_VALUES_MAX

INT4 = 4
BLOCK = Digest(bytes(32))


def arrays_of(name: str) -> TrainingArrays:
    """The data set of a workload."""
    workload = WORKLOADS[name]
    if is_text(workload):
        tokens, none = make_tokens(), np.empty(0, np.int32)
        return TrainingArrays(tokens, none, tokens[:1024], none)
    x, y = make_images(workload)
    x = x.reshape(len(x), -1)
    return TrainingArrays(x, y, x[:EVALUATED], y[:EVALUATED])


def seconds_to_first_step(name: str, cores: tuple[int, ...], cache: Path) -> float:
    """Start a compute process on these cores, and see it take a step; kernels are kept in cache."""
    run = RunSettings(
        network=NETWORKS[name](),
        inner=inner_config(name),
        shown=Presentation(),
        outer=OuterConfig("plain", 1.0, 0.0),
        averaging=Averaging(SHARD_VALUES_MAX, INT4, 0),
        seed=1,
        local_steps=1,
        phases=(0,),
    )
    spec = ComputeSpec(run.packed(), "", len(cores), str(cache))
    arrays = arrays_of(name)
    indices = make_indices(WORKLOADS[name], 1)
    spent: list[float] = []

    async def start() -> None:
        started = time.perf_counter()
        async with open_compute(spec, lambda: arrays) as compute:
            await compute.initial(BLOCK)
            assert await compute.train(indices) is not None
            spent.append(time.perf_counter() - started)

    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # children inherit it
    try:
        trio.run(start)
    finally:
        os.sched_setaffinity(0, allowed)
    return spent[0]

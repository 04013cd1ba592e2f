"""The same training on every OpenCL implementation, thread count and build, by its SHA-256.

    python -m tests.same_bits --model mlp|convnet|gpt [--steps 200] [--threads N]
                              [--device PART_OF_TITLE] [--plain-fma] [--tile naive|6,2,8]
    python -m tests.same_bits --matrix [--models mlp,gpt] [--steps 200]

The first trains a small network on fixed data, with everything in it that training knows, and
prints one line of JSON: the SHA-256 of weights and optimiser state, and how it came about. The
second does so in a process each for every combination of what is installed, prints a table and
ends with code 1 if two hashes of a model differ.

Implementations are found where the drivers are named: in the folder of OCL_ICD_VENDORS, in
/etc/OpenCL/vendors and in .venv/opencl, where .ci/run puts Oclgrind; PoCL from pip is always there.
Sizes are odd, so that every tile and work-group hangs over an edge.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from p2ptrain.config_model import ConvNetSection, GptSection, MlpSection
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations, Tile
from p2ptrain.device.reference import philox_uniform
from p2ptrain.device.selftest import tile_name
from p2ptrain.model.batches import Network
from p2ptrain.model.networks import network_of_section
from p2ptrain.train.local import Presentation, RoundMoment, Trainer, TrainingData
from p2ptrain.train.optimizers import InnerConfig, inner_state_bytes

ROOT = Path(__file__).parents[1]
VENDORS = "OCL_ICD_VENDORS"
VENDOR_FOLDERS = (Path("/etc/OpenCL/vendors"), ROOT / ".venv" / "opencl")
SEED, NOISE = 7, 0x0123456789ABCDEF
SAMPLES, TEST_SAMPLES = 150, 20
TIMEOUT_S = 900
OCLGRIND_CHECKS = {
    "OCLGRIND_DATA_RACES": "1",
    "OCLGRIND_UNINITIALIZED": "1",
    # What its compiler makes of some kernels it cannot interpret: `freeze`, the asking for memory
    # ahead, and what `restrict` becomes where a function is inlined.
    "PYOPENCL_BUILD_OPTIONS": "-cl-opt-disable -DWITHOUT_PREFETCH -Drestrict=",
}
SMALL_TILE = "6,2,4"  # that of processors with short vectors


@dataclass(frozen=True, slots=True)
class Subject:
    """A network and how it is trained."""

    network: Network
    inner: InnerConfig
    presentation: Presentation = field(default_factory=Presentation)


def mlp() -> Subject:
    """Fully connected, with GELU and SGD."""
    network = network_of_section(MlpSection(layers=(65, 131, 47, 10), activation="gelu"))
    return Subject(network, InnerConfig(learning_rate=0.05, weight_decay=1e-3, batch=33))


def convnet() -> Subject:
    """Convolutions, norms, a residual block, pools; crops, mirrors and smoothed labels."""
    layers = (
        "conv 3x3 20 no-bias", "norm 4", "relu", "max-pool 2", "residual 36 stride 2 groups 4",
        "conv 1x1 19", "relu", "global-pool", "linear 33", "gelu", "linear 10",
    )  # fmt: skip
    section = ConvNetSection(kind="convnet", input=(14, 14, 3), layers=layers)
    inner = InnerConfig(
        learning_rate=0.1, nesterov=True, clip_norm=2.0, batch=9,
        schedule="one-cycle", warmup_steps=20, total_steps=1000,
    )  # fmt: skip
    return Subject(network_of_section(section), inner, Presentation(0.1, 2, True))


def gpt() -> Subject:
    """Two blocks with dropout, AdamW, clipping and a cosine."""
    section = GptSection(
        kind="gpt", blocks=2, heads=3, channels=48, context=35, vocabulary=29, dropout=0.1
    )
    inner = InnerConfig(
        optimizer="adamw", learning_rate=3e-3, beta2=0.99, weight_decay=0.1, clip_norm=1.0,
        batch=5, schedule="cosine", warmup_steps=10, learning_rate_end=3e-4, total_steps=1000,
    )  # fmt: skip
    return Subject(network_of_section(section), inner)


def tiny_mlp() -> Subject:
    """For a simulator, in which a step of the others takes minutes."""
    network = network_of_section(MlpSection(layers=(7, 9, 5), activation="gelu"))
    return Subject(network, InnerConfig(batch=3))


def tiny_convnet() -> Subject:
    """As convnet, for a simulator; its pool's windows overlap."""
    layers = (
        "conv 3x3 3", "norm 3", "relu", "max-pool 3 stride 2", "residual 2 groups 1", "linear 3",
    )  # fmt: skip
    section = ConvNetSection(kind="convnet", input=(5, 6, 1), layers=layers)
    inner = InnerConfig(learning_rate=0.05, nesterov=True, clip_norm=1.0, batch=2)
    return Subject(network_of_section(section), inner, Presentation(0.1, 1, True))


def tiny_gpt() -> Subject:
    """As gpt, for a simulator."""
    section = GptSection(
        kind="gpt", blocks=1, heads=2, channels=6, context=3, vocabulary=6, dropout=0.1
    )
    inner = InnerConfig(optimizer="adamw", learning_rate=1e-3, clip_norm=1.0, batch=2)
    return Subject(network_of_section(section), inner)


MODELS: dict[str, Callable[[], Subject]] = {
    "mlp": mlp, "convnet": convnet, "gpt": gpt,
    "tiny-mlp": tiny_mlp, "tiny-convnet": tiny_convnet, "tiny-gpt": tiny_gpt,
}  # fmt: skip


def fixed_data(network: Network) -> TrainingData:
    """Samples that are the same everywhere: integers alone make them."""
    count = SAMPLES + TEST_SAMPLES
    if not network.inputs:
        unit = philox_uniform(40 * network.rows, SEED, 2, np.float32(0.5)) + np.float32(0.5)
        waves = np.arange(len(unit)) % 5 + unit * np.float32(network.classes - 5)
        tokens = waves.astype(np.uint8)
        nothing = np.empty(0, np.int32)
        return TrainingData(tokens, nothing, tokens[: 3 * network.rows], nothing)
    y = (np.arange(count, dtype=np.int32) * 7) % network.classes
    x = philox_uniform(count * network.inputs, SEED, 1, np.float32(1)).reshape(count, -1)
    x += (y[:, None] / np.float32(network.classes)).astype(np.float32)
    return TrainingData(x[:SAMPLES], y[:SAMPLES], x[SAMPLES:], y[SAMPLES:])


def operations_with(library: KernelLibrary, tile: str | None) -> Operations:
    """The device's tile (None), "rows,vectors,width", or "naive": the simple kernels."""
    if tile is None:
        return Operations(library)
    if tile == "naive":
        operations = Operations(library)
        operations.tile = None
        return operations
    rows, vectors, width = map(int, tile.split(","))
    return Operations(library, Tile(rows, vectors, width))


def train(operations: Operations, model: str, steps: int) -> dict[str, Any]:
    """Train and hash.

    Returns:
      sha256  of the parameters and the optimiser's state
      loss    mean over the steps
    """
    subject = MODELS[model]()
    network, inner = subject.network, subject.inner
    trainer = Trainer(operations, network, inner, fixed_data(network), SEED, subject.presentation)
    order = np.arange(steps * inner.batch, dtype=np.int64) * 31 % trainer.sample_count
    indices = order.astype(np.int32).reshape(steps, inner.batch)
    start = trainer.initial_parameters()
    result = trainer.pseudo_gradient(start, indices, moment=RoundMoment(0, NOISE))
    state = inner_state_bytes(trainer.inner_state())
    digest = hashlib.sha256(trainer.parameters().astype("<f4").tobytes() + state)
    return {"sha256": digest.hexdigest(), "loss": result.loss_mean}


# --- one process for each combination ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Combination:
    """On what and how a model is trained; environment loads the implementation."""

    implementation: str
    environment: Mapping[str, str]
    threads: int = 2
    options: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """In a table."""
        return f"{self.implementation}, {self.threads} threads {' '.join(self.options)}".strip()


def implementations() -> dict[str, Mapping[str, str]]:
    """Each OpenCL implementation of this machine by the selector that p2ptrain knows it by, with
    the environment that loads it.
    """
    named = os.environ.get(VENDORS)
    folders = [Path(named)] if named else []
    icds = [icd for folder in (*folders, *VENDOR_FOLDERS) for icd in sorted(folder.glob("*.icd"))]
    found: dict[str, Mapping[str, str]] = {}
    # A folder without an .icd in it loads what is inside pyopencl alone: PoCL 3.0.
    for environment in ({VENDORS: str(ROOT / "tests")}, *({VENDORS: str(icd)} for icd in icds)):
        for selector in _selectors(environment):
            found.setdefault(selector, environment)
    return found


def _selectors(environment: Mapping[str, str]) -> list[str]:
    program = "from p2ptrain.device.opencl import find_devices\n"
    program += "for _, info in find_devices(): print(info.platform_version)"
    listed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, **environment},
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    return re.findall(r"(?:PoCL|Oclgrind) \d+\.\d+", listed.stdout)


def ask(combination: Combination, model: str, steps: int) -> dict[str, Any]:
    """What a process of its own prints; `complaints` are those of Oclgrind.

    Raises:
      CalledProcessError  it fails
    """
    arguments = ["--model", model, "--steps", str(steps), "--device", combination.implementation]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "oclgrind.log"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.same_bits", *arguments,
             "--threads", str(combination.threads), *combination.options],
            env={**os.environ, **combination.environment, "OCLGRIND_LOG": str(log)},
            cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=True,
        )  # fmt: skip
        complaints = log.read_text().split("\n\n") if log.exists() else []
    answer: dict[str, Any] = json.loads(done.stdout)
    return {**answer, "complaints": [text for text in complaints if text.strip()]}


def combinations() -> Iterator[Combination]:
    """Every one of the matrix: PoCLs on 1 and 2 threads, both spellings of fma, tiled and not."""
    for name, environment in implementations().items():
        if not name.startswith("PoCL"):
            continue
        for threads, plain, tile in product((1, 2), ((), ("--plain-fma",)), ((), ("--tile",))):
            naive = ("--tile", "naive") if tile else ()
            if plain and not tile:
                continue  # without contraction there is no tile
            yield Combination(name, environment, threads, (*plain, *naive))


def oclgrind() -> list[Combination]:
    """Oclgrind with its checks, simple kernels and tiled ones; none where it is not installed."""
    return [
        Combination(name, {**environment, **OCLGRIND_CHECKS}, 1, options)
        for name, environment in implementations().items()
        if name.startswith("Oclgrind")
        for options in ((), ("--tile", SMALL_TILE))
    ]


def matrix(models: Sequence[str], steps: int) -> int:
    """Print the table; the exit code."""
    wrong = 0
    for model in models:
        hashes: set[str] = set()
        for combination in combinations():
            answer = ask(combination, model, steps)
            hashes.add(answer["sha256"])
            _say(
                f"{model:8} {steps} steps  {answer['sha256'][:16]}  loss {answer['loss']:.6f} "
                f"{answer['seconds']:6.1f} s  {combination.words}, tile {answer['tile']}"
            )
        wrong += len(hashes) != 1
    for model, simulator in product(models, oclgrind()):
        answer = ask(simulator, f"tiny-{model}", 3)
        usual = ask(next(combinations()), f"tiny-{model}", 3)
        same = answer["sha256"] == usual["sha256"]
        verdict = "same bits" if same else "OTHER BITS"
        found = f"{verdict}, {len(answer['complaints'])} complaints"
        _say(f"tiny-{model}: 3 steps on {simulator.words}, tile {answer['tile']}: {found}")
        wrong += not same or bool(answer["complaints"])
    _say("every hash of a model is the same" if not wrong else f"{wrong} MODELS DIFFER")
    return 1 if wrong else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """One training, or the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plain-fma", action="store_true")
    parser.add_argument("--tile", help="naive, or rows,vectors,width of the matrix product's tile")
    parser.add_argument("--matrix", action="store_true")
    parser.add_argument("--models", default="mlp,convnet,gpt")
    options = parser.parse_args(arguments)
    if options.matrix:
        return matrix(options.models.split(","), options.steps)
    begun = time.perf_counter()
    os.environ["POCL_MAX_PTHREAD_COUNT"] = str(options.threads)
    device = open_device(options.device)
    if "Oclgrind" in device.info.title:
        # It takes memory that is borrowed from the host for memory that was never written.
        device.info = replace(device.info, is_cpu=False)
    library = KernelLibrary(device, False if options.plain_fma else None)
    operations = operations_with(library, options.tile)
    answer = train(operations, options.model, options.steps)
    facts = {
        "device": library.device.info.title,
        "contracted_fma": library.contracted_fma,
        "tile": tile_name(operations),
        "seconds": round(time.perf_counter() - begun, 2),
    }
    _say(json.dumps({**answer, **facts}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

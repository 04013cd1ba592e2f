"""How far kernels/detmath.cl is from the truth, over all 2^32 floats of each function.

    python -m benchmarks.ulp [--functions exp,gelu] [--blocks 16]

The device computes 2^24 values at a time and numpy compares them with its float64 functions, which
are right to about 2^-52 of themselves: 2^-29 of a float32's last bit. Told apart are arguments
whose result is a number that the function promises (finite, and at least 2^-126, or 2^-63 of
GELU, which flushes) and all others, which must be 0, infinite or NaN by rule: `strange` counts
those that are not. Denormal arguments, which count as 0, are in neither. Quotients have two
arguments; they are tried on random pairs.

An ulp is the distance of the float32 numbers around the exact value; 0.5 is a correctly rounded
result, and `misrounded` counts the others.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.kernels import LOCAL_SIZE, KernelLibrary
from p2ptrain.device.opencl import DeviceArray, open_device

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BLOCK = 1 << 24
BLOCKS = 1 << 8
PART = 1 << 18  # values that numpy compares at once, in the processor's cache
NORMAL_MIN = 2.0**-126
FLUSHED_UNDER = 2.0**-63
FLOAT_MAX = float(np.finfo(np.float32).max)
SIGNIFICAND_BITS = 23


@dataclass(frozen=True, slots=True)
class Function:
    """A function of detmath.cl, what it should be, and under which size it gives 0."""

    exact: Callable[[Doubles], Doubles]
    floor: float = NORMAL_MIN
    domain: tuple[float, float] = (-np.inf, np.inf)


def gelu_share(x: Doubles) -> Doubles:
    """1 / (1 + e^-2u) of GELU's tanh form."""
    share: Doubles = 1 / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)))
    return share


def gelu_slope(x: Doubles) -> Doubles:
    """The derivative of x gelu_share(x)."""
    share, rest = gelu_share(x), gelu_share(-x)
    slope: Doubles = 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x * x)
    return share + np.where(np.isfinite(slope), share * rest * x * slope, 0)


FUNCTIONS = {
    "exp": Function(np.exp),
    "log": Function(np.log),
    "tanh": Function(np.tanh),
    "sqrt": Function(np.sqrt),
    "rsqrt": Function(lambda x: 1 / np.sqrt(x)),
    "recip": Function(lambda x: np.where(x == 0, np.nan, 1 / x), domain=(-(2.0**126), 2.0**126)),
    "gelu": Function(lambda x: np.where(x == -np.inf, 0, x * gelu_share(x)), FLUSHED_UNDER),
    "gelu_slope": Function(gelu_slope, FLUSHED_UNDER),
}


@dataclass(slots=True)
class Tally:
    """What is known of a function so far."""

    count: int = 0
    misrounded: int = 0
    strange: int = 0
    ulp_max: float = 0.0
    ulp_max_at: float = 0.0
    error_max: float = 0.0

    def add(self, function: Function, x: Floats, got: Floats) -> None:
        """Compare some values."""
        inside = (np.abs(x) >= NORMAL_MIN) | (x == 0)
        low, high = function.domain
        inside &= (x > low) & (x < high) | ~np.isfinite(x) & np.isinf(high)
        x, got = x[inside], got[inside]
        if not len(x):
            return
        exact = np.asarray(function.exact(x.astype(np.float64)), np.float64)
        promised = (np.abs(exact) >= function.floor) & (np.abs(exact) <= FLOAT_MAX)
        self.strange += _strange(exact[~promised], got[~promised], function.floor)
        exact, got, x = exact[promised], got[promised], x[promised]
        self.count += len(x)
        wrong = got != exact.astype(np.float32)
        if not wrong.any():
            return
        exact, got, x = exact[wrong], got[wrong], x[wrong]
        self.misrounded += len(x)
        error = np.abs(got.astype(np.float64) - exact)
        exponent = (exact.view(np.int64) >> 52) & 0x7FF
        unit = ((exponent - SIGNIFICAND_BITS) << 52).view(np.float64)
        worst = int(np.argmax(error / unit))
        self.error_max = max(self.error_max, float(error.max()))
        if error[worst] / unit[worst] > self.ulp_max:
            self.ulp_max, self.ulp_max_at = float(error[worst] / unit[worst]), float(x[worst])


def _strange(exact: Doubles, got: Floats, floor: float) -> int:
    """How many results outside of what is promised are not what the rule says."""
    fits = np.where(
        np.isnan(exact),
        np.isnan(got),
        np.where(
            np.abs(exact) < floor,
            np.abs(got) <= floor,
            np.isinf(got) & (np.sign(got) == np.sign(exact)),
        ),
    )
    return int((~fits).sum())


class Device:
    """The probes of selftest.cl over blocks of values."""

    def __init__(self) -> None:
        device = open_device()
        self._library = KernelLibrary(device)
        self._a, self._b, self._out = (device.empty((BLOCK,)) for _ in range(3))
        self.title = device.info.title

    def compute(self, name: str, a: Floats, b: Floats | None = None) -> Floats:
        """The function of (BLOCK,) values."""
        self._a.write(a)
        if b is not None:
            self._b.write(b)
        arguments: tuple[DeviceArray, ...] = (self._a, self._b, self._b, self._out)
        kernel = f"selftest.probe_{name}"
        self._library.launch(kernel, (BLOCK,), (LOCAL_SIZE,), arguments).enqueue()
        got: Floats = self._out.read()
        return got


def measure(device: Device, name: str, blocks: int) -> str:
    """One row of the table."""
    function, tally = FUNCTIONS[name], Tally()
    for block in np.linspace(0, BLOCKS - 1, blocks).astype(int):
        first = np.uint32(int(block) * BLOCK)
        x = (np.arange(BLOCK, dtype=np.uint32) + first).view(np.float32)
        got = device.compute(name, x)
        for start in range(0, BLOCK, PART):
            tally.add(function, x[start : start + PART], got[start : start + PART])
    share = tally.misrounded / max(1, tally.count)
    return (
        f"| {name} | {tally.count:,} | {max(tally.ulp_max, 0.5):.3f} | {tally.ulp_max_at:.9g} "
        f"| {tally.misrounded:,} ({share:.2%}) | {tally.error_max:.2g} | {tally.strange} |"
    )


def measure_quotient(device: Device, name: str, blocks: int) -> str:
    """One row about random quotients; numpy's float32 division is correctly rounded."""
    random = np.random.default_rng(0)
    misrounded = 0
    for _ in range(blocks):
        a, b = (
            np.ldexp(random.uniform(1, 2, BLOCK), random.integers(-60, 60, BLOCK)).astype(
                np.float32
            )
            for _ in range(2)
        )
        misrounded += int((device.compute(name, a, b) != a / b).sum())
    count = blocks * BLOCK
    worst = "0.500" if not misrounded else "above 0.5"
    return f"| {name} | {count:,} pairs | {worst} | | {misrounded:,} | | |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*FUNCTIONS, "div", "div_normal"]
    parser.add_argument("--functions", default=",".join(names), help="names, with commas between")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="blocks of 2^24 of each; 256")
    options = parser.parse_args()
    device = Device()
    sys.stdout.write(
        f"{device.title}\n\n"
        "| function | arguments | ulp, max | at | misrounded | absolute, max | strange |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    with np.errstate(all="ignore"):
        for name in options.functions.split(","):
            row = measure if name in FUNCTIONS else measure_quotient
            blocks = options.blocks if name in FUNCTIONS else max(1, options.blocks // 16)
            sys.stdout.write(row(device, name, blocks) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

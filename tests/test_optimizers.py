"""Inner optimisers and clipping: the bits of the twins, the formulas of the papers, the state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.device import reference_optim
from p2ptrain.device.golden_inputs import finished, uniform
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Moments, Operations
from p2ptrain.device.optimize import (
    BLOCK,
    Stepped,
    adamw_step,
    clip_by_norm,
    mask_entries,
    sgd_step,
)
from p2ptrain.errors import ConfigError
from p2ptrain.model.recorder import Weights
from p2ptrain.train.optimizers import (
    InnerConfig,
    InnerOptimizer,
    adamw_scalars,
    inner_state_bytes,
    inner_state_from_bytes,
    next_powers,
    sgd_scalars,
)
from p2ptrain.train.schedules import rate

Floats = NDArray[np.float32]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
# The simple versions with the built-in fma, which is what a device gets that does not contract.
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
SGD = tuple(np.float32(value) for value in (0.1, 0.9, 0.01))
RATE = np.float32(0.01)
STRANGE = np.array([0, -0.0, 1e-40, -1e-30, 2.0**-60, 1e19, -3e38, np.inf, np.nan], np.float32)

both = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["tasks", "values"])
block_counts = st.integers(1, 40)


def bits(values: Floats) -> NDArray[np.uint32]:
    """Bits, with one NaN for all: hardware and numpy differ in its sign and payload."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


def same_bits(one: Floats, other: Floats) -> bool:
    return np.array_equal(bits(one), bits(other))


def mask_of(size: int) -> NDArray[np.uint8]:
    mask = np.ones(size, np.uint8)
    mask[2::5] = 0
    return mask


def vectors(size: int, strange: bool = False) -> tuple[Floats, Floats, Floats, Floats]:
    """Parameters, gradient, first and second moment."""
    w, g, m, v = (uniform(stream, size) for stream in (1, 2, 3, 4))
    if strange:
        g[: 4 * STRANGE.size] = np.tile(STRANGE, 4)
        m[: STRANGE.size] = v[STRANGE.size : 2 * STRANGE.size] = 0
    return w, g, m, np.square(v)


def stepped(w: Floats, g: Floats, factor: float) -> Stepped:
    values = (w, g, mask_entries(mask_of(w.size)), np.full(1, factor, np.float32))
    return Stepped(*(DEVICE.upload(value) for value in values))


def adamw_settings(steps: int = 3) -> tuple[np.float32, ...]:
    config = InnerConfig("adamw", weight_decay=0.1)
    powers = (1.0, 1.0)
    for _ in range(steps):
        powers = next_powers(config, powers)
    return adamw_scalars(config, RATE, powers)


# --- bits --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("nesterov", [False, True])
@settings(max_examples=8, deadline=None)
@given(blocks=block_counts, strange=st.booleans(), factor=st.sampled_from([1.0, 0.3]))
def test_sgd_has_the_bits_of_its_twin(
    operations: Operations, nesterov: bool, blocks: int, strange: bool, factor: float
) -> None:
    w, g, m, _ = vectors(blocks * BLOCK, strange)
    on_device, momentum = stepped(w, g, factor), DEVICE.upload(m)
    launches = sgd_step(operations, on_device, momentum, SGD, nesterov)
    result = finished(launches, on_device.parameters)
    with np.errstate(all="ignore"):
        scaled = g * np.float32(factor)
    twin = reference_optim.sgd_step(w, scaled, m, mask_of(w.size), SGD, nesterov)
    assert same_bits(result, twin[0])
    assert same_bits(momentum.read(), twin[1])


@both
@settings(max_examples=8, deadline=None)
@given(blocks=block_counts, strange=st.booleans(), factor=st.sampled_from([1.0, 0.3]))
def test_adamw_has_the_bits_of_its_twin(
    operations: Operations, blocks: int, strange: bool, factor: float
) -> None:
    w, g, m, v = vectors(blocks * BLOCK, strange)
    on_device, moments = stepped(w, g, factor), Moments(DEVICE.upload(m), DEVICE.upload(v))
    launches = adamw_step(operations, on_device, moments, adamw_settings())
    result = finished(launches, on_device.parameters)
    with np.errstate(all="ignore"):
        scaled = g * np.float32(factor)
    twin = reference_optim.adamw_step((w, m, v), scaled, mask_of(w.size), adamw_settings())
    for mine, its in zip((result, moments.first.read(), moments.second.read()), twin, strict=True):
        assert same_bits(mine, its)


@both
@settings(max_examples=8, deadline=None)
@given(blocks=st.integers(1, 150), most=st.floats(0.0009765625, 100, width=32))
def test_the_factor_of_clipping_has_the_bits_of_its_twin(
    operations: Operations, blocks: int, most: float
) -> None:
    g, factor = uniform(blocks, blocks * BLOCK), DEVICE.zeros((1,))
    g[::3] *= np.float32(2.0**-62)
    launches = clip_by_norm(operations, DEVICE.upload(g), factor, np.float32(most))
    twin = reference_optim.clip_factor(g, np.float32(most))
    assert same_bits(finished(launches, factor), np.full(1, twin))


# --- meaning -----------------------------------------------------------------------------------


@both
def test_the_norm_of_a_clipped_gradient_is_the_largest_allowed(operations: Operations) -> None:
    g, factor = uniform(1, 70 * BLOCK), DEVICE.zeros((1,))
    norm = np.sqrt(np.sum(np.square(g.astype(np.float64))))
    clipped = finished(clip_by_norm(operations, DEVICE.upload(g), factor, np.float32(2)), factor)
    assert clipped[0] == pytest.approx(2 / norm, rel=1e-6)
    at_most = np.float32(norm * 1.001)
    assert finished(clip_by_norm(operations, DEVICE.upload(g), factor, at_most), factor)[0] == 1


@pytest.mark.parametrize("value", [0.0, 1e-42, np.nan])
def test_what_has_no_length_and_what_is_no_number_is_not_clipped(value: float) -> None:
    g, factor = np.full(BLOCK, value, np.float32), DEVICE.zeros((1,))
    launches = clip_by_norm(OPERATIONS, DEVICE.upload(g), factor, np.float32(1))
    assert finished(launches, factor)[0] == 1


def test_root_and_quotient_are_as_near_as_the_kernel_says() -> None:
    v = np.exp2(uniform(1, 1 << 20).astype(np.float64) * 63).astype(np.float32)
    v[: 1 << 19] = np.linspace(1, 4, 1 << 19)
    root = np.sqrt(v.astype(np.float64))
    wrong = np.abs(reference_optim.root_of_moment(v) - root) / np.spacing(root.astype(np.float32))
    assert wrong.max() < 11
    a, d = uniform(2, v.size), v[::-1].copy()
    quotient = a.astype(np.float64) / d
    ulp = np.spacing(np.abs(quotient).astype(np.float32))
    normal = np.abs(quotient) > 2.0**-120
    wrong = np.abs(reference_optim.quotient_by_positive(a, d) - quotient) / ulp
    assert wrong[normal].max() < 2
    assert reference_optim.root_of_moment(np.zeros(1, np.float32))[0] == 0


def test_adamw_is_the_published_formula() -> None:
    """Loshchilov and Hutter's algorithm 2 in float64, over ten steps."""
    config = InnerConfig("adamw", learning_rate=0.01, weight_decay=0.1, beta2=0.99)
    w, _, _, _ = vectors(BLOCK)
    exact, m, v = w.astype(np.float64), np.zeros(BLOCK), np.zeros(BLOCK)
    optimizer, weights = make(config, w)
    assert weights.gradient is not None
    for t in range(1, 11):
        g = uniform(10 + t, BLOCK)
        weights.gradient.write(g)
        optimizer.enqueue(t - 1)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * np.square(g.astype(np.float64))
        u = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        exact -= 0.01 * (u + 0.1 * exact * mask_of(BLOCK))
    moved = exact - w
    wrong = weights.parameters.read() - exact
    assert np.linalg.norm(wrong) < 1e-5 * np.linalg.norm(moved)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_published_formula(nesterov: bool) -> None:
    """PyTorch's form of Sutskever's, in float64, over ten steps."""
    config = InnerConfig(learning_rate=0.05, weight_decay=0.01, nesterov=nesterov)
    w, _, _, _ = vectors(BLOCK)
    exact, m = w.astype(np.float64), np.zeros(BLOCK)
    optimizer, weights = make(config, w)
    assert weights.gradient is not None
    for step in range(10):
        g = uniform(10 + step, BLOCK)
        weights.gradient.write(g)
        optimizer.enqueue(step)
        push = g + 0.01 * exact * mask_of(BLOCK)
        m = 0.9 * m + push
        exact -= 0.05 * (push + 0.9 * m if nesterov else m)
    wrong = weights.parameters.read() - exact
    assert np.linalg.norm(wrong) < 1e-5 * np.linalg.norm(exact - w)


@both
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_padding_stays_at_zero(operations: Operations, optimizer: str) -> None:
    config = InnerConfig(optimizer, weight_decay=0.5, clip_norm=1)
    zeros = Weights(DEVICE.zeros((BLOCK,)), DEVICE.zeros((BLOCK,)))
    stepper = InnerOptimizer(operations, config, zeros, mask_of(BLOCK))
    stepper.enqueue(0)
    assert not bits(zeros.parameters.read()).any()
    assert not any(bits(vector).any() for vector in (stepper.state().first, stepper.state().second))


@both
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_gradient_that_is_not_finite_shows_in_the_parameters(
    operations: Operations, optimizer: str, clip_norm: float, value: float
) -> None:
    g = uniform(1, BLOCK)
    g[7] = value
    weights = Weights(DEVICE.upload(uniform(2, BLOCK)), DEVICE.upload(g))
    config = InnerConfig(optimizer, clip_norm=clip_norm)
    InnerOptimizer(operations, config, weights, mask_of(BLOCK)).enqueue(0)
    assert not np.isfinite(weights.parameters.read()[7])


# --- steps of a run ----------------------------------------------------------------------------


def make(config: InnerConfig, w: Floats) -> tuple[InnerOptimizer, Weights]:
    weights = Weights(DEVICE.upload(w), DEVICE.zeros(w.shape))
    return InnerOptimizer(OPERATIONS, config, weights, mask_of(w.size)), weights


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_step_has_its_rate_and_is_clipped_to_its_norm(optimizer: str) -> None:
    config = InnerConfig(
        optimizer, weight_decay=0.1, clip_norm=20, schedule="cosine", warmup_steps=2, total_steps=9
    )
    w, _, m, v = vectors(5 * BLOCK)
    m, v = np.zeros_like(m), np.zeros_like(v)
    stepper, weights = make(config, w)
    assert weights.gradient is not None
    mask, powers = mask_of(w.size), (1.0, 1.0)
    for step in (0, 1, 2, 5, 8):
        g = uniform(20 + step, w.size) * np.float32(0.05 * step)
        weights.gradient.write(g)
        stepper.enqueue(step)
        scaled = g * reference_optim.clip_factor(g, np.float32(20))
        now = rate(config.course, step)
        if optimizer == "sgd":
            w, m = reference_optim.sgd_step(w, scaled, m, mask, sgd_scalars(config, now))
        else:
            powers = next_powers(config, powers)
            scalars = adamw_scalars(config, now, powers)
            w, m, v = reference_optim.adamw_step((w, m, v), scaled, mask, scalars)
    state = stepper.state()
    assert state.step_count == 5
    assert same_bits(weights.parameters.read(), w)
    assert same_bits(state.first, m)
    assert optimizer == "sgd" or same_bits(state.second, v)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_state_goes_through_its_bytes_and_repeats_the_step(optimizer: str) -> None:
    config = InnerConfig(optimizer, weight_decay=0.1)
    w, g, _, _ = vectors(2 * BLOCK)
    stepper, weights = make(config, w)
    assert weights.gradient is not None
    weights.gradient.write(g)
    stepper.enqueue(0)
    state, after = stepper.state(), weights.parameters.read()
    stepper.enqueue(1)
    twice = weights.parameters.read()
    content = inner_state_bytes(state)
    assert len(content) == 8 + w.nbytes * (2 if optimizer == "adamw" else 1)
    other, others = make(config, after)
    assert others.gradient is not None
    others.gradient.write(g)
    other.restore(inner_state_from_bytes(content, other.state()))
    other.enqueue(1)
    assert same_bits(others.parameters.read(), twice)


@pytest.mark.parametrize("size", [1e-18, 1e-25, 1e-35, 1e-42])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_vanishing_gradient_leaves_no_denormal_number_behind(optimizer: str, size: float) -> None:
    """They take a CPU up to 165 times as long: benchmarks/denormals.py has the times."""
    w = uniform(1, 2 * BLOCK)
    stepper, weights = make(InnerConfig(optimizer, clip_norm=1), w)
    assert weights.gradient is not None
    gradient = (uniform(2, w.size).astype(np.float64) * size).astype(np.float32)
    weights.gradient.write(gradient)
    for step in range(8):
        stepper.enqueue(step)
    state = stepper.state()
    for values in (weights.parameters.read(), state.first, state.second):
        assert not np.any((values != 0) & (np.abs(values) < 2.0**-126))


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "adamw", "nesterov": True},
        {"clip_norm": -1.0},
        {"clip_norm": float("nan")},
        {"schedule": "linear"},
        {"schedule": "cosine"},
        {"schedule": "cosine", "total_steps": 100, "warmup_steps": 100},
        {"schedule": "one-cycle", "total_steps": -1},
        {"warmup_steps": -1},
        {"learning_rate_end": 0.2},
        {"learning_rate_end": -0.1},
    ],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, object]) -> None:
    key = {"cosine": "steps", "one-cycle": "steps"}.get(str(wrong.get("schedule")), list(wrong)[-1])
    with pytest.raises(ConfigError, match=key):
        InnerConfig(**wrong)  # type: ignore[arg-type]

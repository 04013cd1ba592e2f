"""The quantising kernels have the bits of their numpy twins. protocol/codecs.md 3 and 5."""

import numpy as np
import pytest
from numpy.typing import NDArray

from p2ptrain.compress.blocks import INT8, TINY, BlockCodec
from p2ptrain.compress.codecs import CODECS
from p2ptrain.compress.feedback import quantise_with_feedback
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.quantize import Quantizer
from p2ptrain.train.compression import rule_of
from p2ptrain.wire.limits import CODEC_BLOCK

BLOCKS = 64
VALUES = BLOCKS * CODEC_BLOCK


@pytest.fixture(scope="module", params=[None, False], ids=["probed fma", "built-in fma"])
def library(request: pytest.FixtureRequest) -> KernelLibrary:
    """Both spellings of the fused multiply-add."""
    return KernelLibrary(open_device(), contracted_fma=request.param)


def awkward(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Blocks of all sizes, with zeros of both signs, denormals, ties and values at TINY."""
    rng = np.random.default_rng(seed)
    sizes = np.repeat(np.ldexp(np.float32(1), rng.integers(-80, 90, BLOCKS)), CODEC_BLOCK)
    gradient = (rng.standard_normal(VALUES) * sizes).astype(np.float32)
    residual = (rng.standard_normal(VALUES) * gradient).astype(np.float32)
    special = np.array([0.0, -0.0, 1e-45, -1e-39, TINY, -TINY, TINY / 2, -TINY / 2], np.float32)
    gradient[:CODEC_BLOCK] = np.resize(special, CODEC_BLOCK)
    residual[:CODEC_BLOCK] = 0
    gradient[CODEC_BLOCK : 2 * CODEC_BLOCK] = np.resize(np.arange(-127, 127.5, 0.5), CODEC_BLOCK)
    residual[CODEC_BLOCK : 2 * CODEC_BLOCK] = -0.0
    gradient[2 * CODEC_BLOCK : 3 * CODEC_BLOCK] = special[2]
    residual[2 * CODEC_BLOCK : 3 * CODEC_BLOCK] = special[3]
    return gradient, residual


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_the_kernel_has_the_bits_of_its_twin(library: KernelLibrary, codec: BlockCodec) -> None:
    quantizer = Quantizer(library, VALUES, rule_of(codec))
    for seed in range(3):
        gradient, residual = awkward(seed)
        q, scales, lost = quantizer.quantise(gradient, residual)
        twin, twin_lost = quantise_with_feedback(codec, gradient, residual)
        assert np.array_equal(q, twin.q)
        assert scales.tobytes() == twin.scales.tobytes()
        assert lost.tobytes() == twin_lost.tobytes()


@pytest.mark.parametrize("codec", [INT8, CODECS[2], CODECS[4096 + 32]], ids=["8", "2", "topk"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_block_that_is_not_finite_has_a_scale_of_nan(
    library: KernelLibrary, codec: BlockCodec, bad: float
) -> None:
    gradient = np.ones(2 * CODEC_BLOCK, np.float32)
    gradient[CODEC_BLOCK + 77] = bad
    quantizer = Quantizer(library, gradient.size, rule_of(codec))
    _, scales, _ = quantizer.quantise(gradient, np.zeros_like(gradient))
    assert np.isfinite(scales).tolist() == [True, False]

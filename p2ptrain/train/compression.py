"""From a pseudo-gradient to the shards of a contribution: error feedback and codec, on the device.

Which codec a round has follows from the recipe and the round: int8 for the first warmup_rounds,
then the recipe's own. The residual goes through all rounds; a codec says how much of it is left
after a round, and after how many rounds it is forgotten (protocol/codecs.md section 5).
"""

from collections.abc import Iterable

import numpy as np

from p2ptrain.compress.blocks import BlockCodec, NotFinite, Quantised
from p2ptrain.compress.codecs import CODECS, INT2, TOPK
from p2ptrain.compress.feedback import cut_shards, quantise_with_feedback
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.quantize import Quantizer, Rule, to_few, to_peak
from p2ptrain.errors import DeviceError
from p2ptrain.train.outer import Vector
from p2ptrain.train.run_settings import Averaging
from p2ptrain.wire.limits import CODEC_BLOCK

ONE_OF_EACH = (CODECS[4], CODECS[8], INT2, TOPK[128])  # of each rule that kernels know


def rule_of(codec: BlockCodec) -> Rule:
    """The kernel that rounds as the codec does."""
    if codec is INT2 or codec.kept:
        return to_few(codec.decay, codec.kept)
    return to_peak(codec.peak)


class Compressor:
    """Makes contributions of one recipe's vectors."""

    def __init__(self, library: KernelLibrary, averaging: Averaging, values: int) -> None:
        """Make what the first round needs.

        library    where the kernels come from
        averaging  of the run
        values     of a vector, a multiple of CODEC_BLOCK
        """
        self._library = library
        self._averaging = averaging
        self._values = values
        self._codec = self.codec_after(0)
        self._quantizer = self._quantizer_of(self._codec)

    def codec_after(self, rounds: int) -> BlockCodec:
        """The codec of contributions to the round after so many."""
        return CODECS[self._averaging.number_after(rounds)]

    def compress(
        self, gradient: Vector, residual: Vector, rounds: int
    ) -> tuple[tuple[bytes, ...], Vector]:
        """The shards of a contribution to the round after so many, and the next residual.

        Raises NotFinite.
        """
        codec = self.codec_after(rounds)
        if codec is not self._codec:  # the warm-up is over
            self._codec, self._quantizer = codec, self._quantizer_of(codec)
        if codec.reset_rounds and rounds % codec.reset_rounds == 0:
            residual = np.zeros_like(residual)
        q, scales, lost = self._quantizer.quantise(gradient, residual)
        if not np.isfinite(scales).all():
            raise NotFinite("the pseudo-gradient is not finite: the training has diverged")
        return cut_shards(codec, Quantised(q, scales), self._averaging.shard_values), lost

    def check(self) -> None:
        """Hold the kernels of this recipe to their twins. Raises DeviceError."""
        last = CODECS[self._averaging.number]
        check_quantizer(self._library, {c.number: c for c in (self.codec_after(0), last)}.values())

    def _quantizer_of(self, codec: BlockCodec) -> Quantizer:
        return Quantizer(self._library, self._values, rule_of(codec))


def check_quantizer(library: KernelLibrary, codecs: Iterable[BlockCodec] = ONE_OF_EACH) -> None:
    """Hold the device's quantisers to their numpy twins. Raises DeviceError."""
    # Sizes from 2**-75 to 2**60, signs in turn; the last block is all zeros.
    steps = np.arange(3 * CODEC_BLOCK, dtype=np.float32)
    sizes = np.ldexp(np.float32(1), np.linspace(-75, 60, steps.size).astype(np.int32))
    gradient = (np.where(steps % 2 == 0, steps, -steps) * sizes).astype(np.float32)
    gradient[2 * CODEC_BLOCK :] = 0
    residual = gradient[::-1].copy()
    residual[2 * CODEC_BLOCK :] = 0
    for codec in codecs:
        quantizer = Quantizer(library, gradient.size, rule_of(codec))
        q, scales, lost = quantizer.quantise(gradient, residual)
        twin, twin_lost = quantise_with_feedback(codec, gradient, residual)
        if not (
            np.array_equal(q, twin.q)
            and np.array_equal(scales, twin.scales)
            and np.array_equal(lost, twin_lost)
        ):
            raise DeviceError(
                f"{library.device.info.title} quantises with other bits than the rules say: its "
                "contributions would differ from what is checked; choose another device with "
                "P2PTRAIN_DEVICE"
            )

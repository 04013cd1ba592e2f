"""Print the vectors of protocol/codecs.md: python protocol/vectors/make_codecs.py > codecs.json.

The shards and norms of encode vectors come from p2ptrain; the means are computed here once more
with rational numbers, straight from the text of section 6, so the vectors do not just repeat the
code that they test. Byte strings are written as [hex, times] runs.
"""

import json
import sys
from fractions import Fraction
from itertools import groupby
from math import floor, isqrt
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import INT4, INT8, BlockCodec
from p2ptrain.compress.centring import aggregate_shard
from p2ptrain.compress.codecs import INT2, TOPK
from p2ptrain.compress.feedback import quantise_with_feedback
from p2ptrain.compress.reduce import WeightedShard, reduce_shard
from p2ptrain.wire.limits import CODEC_BLOCK

Runs = list[list[Any]]


def runs_of(content: bytes, width: int = 4) -> Runs:
    """Runs of equal words of `width` bytes."""
    words = [content[i : i + width].hex() for i in range(0, len(content), width)]
    return [[word, len(list(group))] for word, group in groupby(words)]


def ramp(peak: float, blocks: int = 1) -> NDArray[np.float32]:
    """Values in 64 steps from -peak to peak, each 64 times, so that the runs stay short."""
    steps = np.linspace(-peak, peak, 64, dtype=np.float64).astype(np.float32)
    return np.tile(np.repeat(steps, 64), blocks)


def nearest_even(x: Fraction) -> int:
    """Half to even."""
    return round(x)


def as_float32(x: Fraction) -> np.float32:
    """Nearest float32, half to even, of a positive number in the normal range."""
    exponent = -149
    while x >= Fraction(2) ** (exponent + 24):
        exponent += 1
    return np.float32(float(nearest_even(x / Fraction(2) ** exponent) * Fraction(2) ** exponent))


def mean_block(terms: list[tuple[int, float, list[int]]]) -> tuple[np.float32, list[int]]:
    """Scale and q of one reduced block of terms (factor, scale, q): section 6, step by step."""
    weights = [Fraction(factor) * Fraction(scale) for factor, scale, _ in terms]
    zero = (np.float32(0), [0] * len(terms[0][2]))
    if not any(weights):
        return zero
    u = -300
    while max(weights) >= Fraction(2) ** (u + 40):
        u += 1
    integers = [floor(w / Fraction(2) ** u) for w in weights]
    sums = [
        sum(w * t[2][i] for w, t in zip(integers, terms, strict=True)) for i in range(len(zero[1]))
    ]
    peak, total = max(map(abs, sums)), sum(factor for factor, _, _ in terms)
    if Fraction(peak) * Fraction(2) ** u / total < Fraction(2) ** -63:
        return zero
    scale = as_float32(Fraction(peak) * Fraction(2) ** u / (127 * total))
    return scale, [nearest_even(Fraction(127 * t, peak)) for t in sums]


def mean_shard(codec: BlockCodec, terms: list[tuple[int, bytes]]) -> bytes:
    """Section 6 for a shard."""
    parts = [(factor, codec.quantised(shard)) for factor, shard in terms]
    blocks = [
        mean_block([(f, float(p.scales[b]), p.q[b].tolist()) for f, p in parts])
        for b in range(len(parts[0][1].scales))
    ]
    scales = b"".join(scale.astype("<f4").tobytes() for scale, _ in blocks)
    return scales + b"".join(np.array(q, np.int8).tobytes() for _, q in blocks)


def encode_vector(name: str, codec: BlockCodec, values: NDArray[np.float32]) -> dict[str, Any]:
    """One accepted encoding."""
    shard = codec.encode(values)
    return {
        "name": name,
        "codec": codec.number,
        "values": runs_of(values.astype("<f4").tobytes()),
        "shard": runs_of(shard),
        "decoded": runs_of(codec.decode(shard).astype("<f4").tobytes()),
        "norm2": str(codec.squared_norm(shard)),
    }


def rejected(name: str, rule: str, codec: int, shard: bytes) -> dict[str, Any]:
    """One refused shard."""
    return {"name": name, "rule": f"codecs {rule}", "codec": codec, "shard": runs_of(shard)}


def feedback_vector(codec: BlockCodec) -> dict[str, Any]:
    """One round of error feedback."""
    gradient, residual = ramp(1e-2), np.roll(ramp(3e-3), 640)
    blocks, left = quantise_with_feedback(codec, gradient, residual)
    return {
        "codec": codec.number,
        "gradient": runs_of(gradient.astype("<f4").tobytes()),
        "residual": runs_of(residual.astype("<f4").tobytes()),
        "shard": runs_of(codec.join(blocks)),
        "next": runs_of(left.astype("<f4").tobytes()),
    }


def sparse_rejections() -> list[dict[str, Any]]:
    """Refused blocks of topk with k = 128: areas of 512, 376 and 256 bits."""

    def shard(low: list[int], high: list[int], values: list[int]) -> bytes:
        bits = np.zeros(1144, np.uint8)
        bits[low + [512 + at for at in high] + [888 + at for at in values]] = 1
        return np.float32(1).tobytes() + np.packbits(bits, bitorder="little").tobytes()

    def case(name: str, rule: str, areas: bytes) -> dict[str, Any]:
        return rejected(name, rule, CODEC_BLOCK + 128, areas)

    fine = shard([], [0], [1])
    return [
        case("more values than k", "4.3", shard([], list(range(129)), [1])),
        case("an index of 4096", "4.3", shard([], [256], [1])),
        case("low bits of no value", "4.3", shard([4], [0], [1])),
        case("a sign of no value", "4.3", shard([], [0], [1, 2])),
        case("no value of 3", "4.5", shard([], [0], [])),
        case("no value", "4.5", shard([], [], [])),
        case("scale +0 and a value", "4.4", bytes(4) + fine[4:]),
        case("a block a byte short", "4.1", fine[:-1]),
    ]


def rejections() -> list[dict[str, Any]]:
    """At least one refused shard a rule."""

    def shard(scale: bytes, q: bytes) -> bytes:
        return scale + q + bytes(CODEC_BLOCK - len(q))

    one, half = np.float32(1).tobytes(), np.zeros(CODEC_BLOCK // 2, np.uint8)
    half[0] = 8
    pair = np.zeros(CODEC_BLOCK // 4, np.uint8)
    pair[0] = 2
    return [
        *sparse_rejections(),
        rejected("a pair of -2", "4.3", 2, one + pair.tobytes()),
        rejected("all q zero, int2", "4.5", 2, one + bytes(CODEC_BLOCK // 4)),
        rejected("empty", "4.1", 8, b""),
        rejected("a byte is missing", "4.1", 8, shard(one, b"\x7f")[:-1]),
        rejected("a byte too many", "4.1", 4, one + bytes(CODEC_BLOCK // 2) + b"\0"),
        rejected("scale NaN", "4.2", 8, shard(bytes.fromhex("0000c07f"), b"\x7f")),
        rejected("scale infinite", "4.2", 8, shard(bytes.fromhex("0000807f"), b"\x7f")),
        rejected("scale negative", "4.2", 8, shard(np.float32(-1).tobytes(), b"\x7f")),
        rejected("scale -0", "4.2", 8, shard(bytes.fromhex("00000080"), b"")),
        rejected("scale denormal", "4.2", 8, shard(bytes.fromhex("01000000"), b"\x7f")),
        rejected("scale below 2^-70", "4.2", 8, shard(np.float32(2.0**-71).tobytes(), b"\x7f")),
        rejected("q of -128", "4.3", 8, shard(one, b"\x80")),
        rejected("nibble of -8", "4.3", 4, one + half.tobytes()),
        rejected("scale +0 and a q", "4.4", 8, shard(bytes(4), b"\x7f")),
        rejected("peak of 126", "4.5", 8, shard(one, b"\x7e")),
        rejected("all q zero", "4.5", 4, one + bytes(CODEC_BLOCK // 2)),
        rejected("norm of 2^32 and more", "4.6", 8, shard(np.float32(2.0**32).tobytes(), b"\x7f")),
    ]


def reduce_vector(
    name: str, codec: BlockCodec, terms: list[tuple[int, NDArray[np.float32]]]
) -> dict[str, Any]:
    """One mean, from the definition; the implementation must agree before it is written."""
    shards = [(factor, codec.encode(values)) for factor, values in terms]
    result = mean_shard(codec, shards)
    weighted = [WeightedShard(factor, shard) for factor, shard in shards]
    assert reduce_shard(codec, weighted) == result, name
    return {
        "name": name,
        "codec": codec.number,
        "terms": [{"factor": f, "shard": runs_of(s)} for f, s in shards],
        "reduced": runs_of(result),
    }


def clipped_factors(factors: list[int], vectors: list[list[Fraction]]) -> list[int]:
    """Section 6.1, step by step; factors above 0."""
    total = list(range(len(factors)))
    products = [[sum(map(mul, x, y), Fraction(0)) for y in vectors] for x in vectors]
    f = factors
    for _ in range(16):
        along = [sum(f[j] * products[i][j] for j in total) for i in total]
        across = sum(f[i] * along[i] for i in total)
        far = [sum(f) ** 2 * products[i][i] - 2 * sum(f) * along[i] + across for i in total]
        radius = sorted(far)[(len(far) - 1) // 2]
        shares = [
            a << 16 if d <= radius else isqrt(floor((a << 16) ** 2 * radius / d))
            for a, d in zip(factors, far, strict=True)
        ]
        f = [65535 * share // max(shares) for share in shares]
    return f


def centred_vector(
    name: str, codec: BlockCodec, terms: list[tuple[int, NDArray[np.float32]]]
) -> dict[str, Any]:
    """One clipped mean, from the definition; the implementation must agree."""
    shards = [(factor, codec.encode(values)) for factor, values in terms]
    part = [(i, codec.quantised(s)) for i, (factor, s) in enumerate(shards) if factor]
    vectors = [
        [Fraction(float(s)) * q for s, row in zip(b.scales, b.q.tolist(), strict=True) for q in row]
        for _, b in part
    ]
    clipped = [0] * len(shards)
    for (i, _), f in zip(
        part, clipped_factors([shards[i][0] for i, _ in part], vectors), strict=True
    ):
        clipped[i] = f
    result = mean_shard(codec, [(f, s) for f, (_, s) in zip(clipped, shards, strict=True)])
    weighted = [WeightedShard(factor, shard) for factor, shard in shards]
    assert aggregate_shard(codec, weighted, "centered-clip") == result, name
    return {
        "name": name,
        "codec": codec.number,
        "terms": [{"factor": f, "shard": runs_of(s)} for f, s in shards],
        "clipped": clipped,
        "reduced": runs_of(result),
    }


def main() -> None:
    """Print all vectors."""
    zeros = np.zeros(CODEC_BLOCK, np.float32)
    last, few = zeros.copy(), zeros.copy()
    last[-1] = -1.5
    few[::1024], few[1::1024] = (0.5, -0.25, 2.0**-64, 3.0), -(2.0**-63)
    two_blocks = np.concatenate([ramp(1e-3), ramp(3e4)])
    vectors = {
        "encode": [
            encode_vector("zeros", INT8, zeros),
            encode_vector("ramp", INT8, ramp(1.0)),
            encode_vector("small ramp", INT4, ramp(3e-5)),
            encode_vector("two blocks of unlike size", INT8, two_blocks),
            encode_vector("two blocks of unlike size, int4", INT4, two_blocks),
            encode_vector("the smallest peak", INT8, ramp(2.0**-63)),
            encode_vector("below the smallest peak", INT8, ramp(2.0**-64)),
            encode_vector("ramp, int2", INT2, ramp(1.0)),
            encode_vector("two blocks of unlike size, int2", INT2, two_blocks),
            encode_vector("below the smallest peak, int2", INT2, ramp(2.0**-64)),
            *(encode_vector(f"ramp, topk {k}", TOPK[k], ramp(1.0)) for k in TOPK),
            encode_vector("two blocks of unlike size, topk", TOPK[128], two_blocks),
            encode_vector("one value, the last", TOPK[128], last),
            encode_vector("fewer values than k, some of them tiny", TOPK[32], few),
        ],
        "rejected": rejections(),
        "feedback": [feedback_vector(codec) for codec in (INT8, INT4, INT2, TOPK[128])],
        "reduce": [
            reduce_vector("one term", INT8, [(65535, ramp(1.0))]),
            reduce_vector("all zero", INT4, [(65535, zeros), (1, zeros)]),
            reduce_vector("all factors zero", INT8, [(0, ramp(1.0)), (0, ramp(2.0))]),
            reduce_vector("two equal terms", INT4, [(65535, ramp(0.1)), (65535, ramp(0.1))]),
            reduce_vector("terms that cancel", INT8, [(65535, ramp(1.0)), (65535, -ramp(1.0))]),
            reduce_vector(
                "unlike factors and sizes",
                INT4,
                [(65535, ramp(1e-3)), (17, np.roll(ramp(2.0), 640)), (0, ramp(1e8))],
            ),
            reduce_vector(
                "two terms, int2", INT2, [(65535, ramp(1.0)), (9, np.roll(ramp(2.0), 64))]
            ),
            reduce_vector(
                "sparse terms that overlap in part",
                TOPK[128],
                [(65535, ramp(1.0)), (40000, np.roll(ramp(2.0), 64)), (1, last)],
            ),
            reduce_vector(
                "sixty-four terms",
                INT8,
                [(65535 - 1000 * i, np.roll(ramp(1.0 + i), 64 * i)) for i in range(64)],
            ),
        ],
        "centred": [
            centred_vector(
                "one of four against the others",
                INT4,
                [(65535, np.roll(ramp(1.0), 64 * i)) for i in range(3)] + [(65535, -ramp(1.0))],
            ),
            centred_vector(
                "a huge one, one that counts little, and one of factor 0",
                INT8,
                [
                    (60000, two_blocks),
                    (30000, np.roll(two_blocks, 64)),
                    (65535, np.roll(two_blocks, 128)),
                    (9, -1000 * two_blocks),
                    (0, two_blocks),
                ],
            ),
            centred_vector(
                "most are equal",
                TOPK[128],
                [(65535, ramp(1.0)), (50000, ramp(1.0)), (40000, np.roll(ramp(2.0), 64))],
            ),
        ],
    }
    json.dump(vectors, sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

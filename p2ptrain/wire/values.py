"""Canonical bytes of plain values: recipes and manifests, whose hash is their name.

A value is None, a bool, an integer of 64 bits with sign, a finite float, a text, a byte string, a
list of values, or a dict from texts to values. MessagePack, each in its shortest form; floats
always in 64 bits; keys in the order of their UTF-8 bytes, none twice. protocol/encoding.md
section 8.
"""

import math

import msgpack

from p2ptrain.wire.limits import VALUE_BYTES_MAX, VALUE_DEPTH_MAX

Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"]

INTEGER_MIN, INTEGER_MAX = -(1 << 63), (1 << 63) - 1


def pack_value(value: Value) -> bytes:
    """The one encoding of a value. Raises ValueError for what has none."""
    packed: bytes = msgpack.packb(_ordered(value, VALUE_DEPTH_MAX), use_bin_type=True)
    if len(packed) > VALUE_BYTES_MAX:
        raise ValueError(f"a value of {len(packed)} bytes, where {VALUE_BYTES_MAX} is the most")
    return packed


def unpack_value(data: bytes) -> Value:
    """Read what pack_value wrote. Raises ValueError for all other bytes."""
    if len(data) > VALUE_BYTES_MAX:
        raise ValueError(f"a value of {len(data)} bytes, where {VALUE_BYTES_MAX} is the most")
    try:
        value: Value = msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0)
    except ValueError as error:  # all of the library's errors are this
        raise ValueError(f"not a MessagePack value: {error}") from None
    if pack_value(value) != data:
        raise ValueError("not the one canonical encoding of this value")
    return value


def _ordered(value: Value, depth: int) -> Value:
    """The value with its keys in order; raises ValueError for what a value may not be."""
    if depth == 0:
        raise ValueError(f"a value nested deeper than {VALUE_DEPTH_MAX}")
    match value:
        case None | bool() | str() | bytes():
            return value
        case int():
            if not INTEGER_MIN <= value <= INTEGER_MAX:
                raise ValueError(f"the integer {value} has more than 64 bits")
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} is not a finite number")
            return value
        case list():
            return [_ordered(item, depth - 1) for item in value]
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("a key that is not a text")
            # Python orders texts by code point, which is the order of their UTF-8 bytes.
            return {key: _ordered(value[key], depth - 1) for key in sorted(value)}
        case _:
            raise ValueError(f"a {type(value).__name__} is not a plain value")

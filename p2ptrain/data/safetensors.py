"""Read the tensors of a .safetensors file, trusting nothing that its header says.

    file = length of header, 8 bytes little-endian | header, JSON | values, little-endian

The header maps names to {dtype, shape, data_offsets: [begin, end)}, counted from the end of the
header, and "__metadata__" to texts. Every value belongs to one tensor: there are no gaps. Source:
https://github.com/huggingface/safetensors#format. (Writing is in store/export.py.)

The library would be no help: in numpy it knows no bfloat16, and it reads whatever the header asks
for. Here all claims are compared with the file's size before a tensor is read, and each tensor
comes as float32: F32 as it is, F16 and BF16 exactly, since every value of theirs is one of float32.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import ConfigError
from p2ptrain.wire.limits import SAFETENSORS_HEADER_BYTES_MAX, TENSOR_DIMENSIONS_MAX

DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}  # what becomes float32 without rounding
_METADATA = "__metadata__"
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies.

    dtype       the format's name for it, such as F32; not in DTYPE_BYTES if it cannot be read here
    begin, end  its bytes, counted from the start of the file
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def unusable(source: str, why: str, todo: str) -> ConfigError:
    """The error for a file of weights: what, why, what to do."""
    return ConfigError(f"{source} cannot be used as weights: {why}.\n{todo}")


def read_header(source: str, file: BinaryIO) -> dict[str, StoredTensor]:
    """What a file holds, by name, in the order of the header. Reads nothing but the header.

    Raises ConfigError unless the file is a whole .safetensors file.
    """
    file_bytes = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    body = _LENGTH_BYTES + length
    if file_bytes < body or not 2 <= length <= SAFETENSORS_HEADER_BYTES_MAX:
        raise _broken(source, "it does not begin as a .safetensors file does, or is cut short")
    header = _parse(source, file.read(length))
    header.pop(_METADATA, None)
    tensors = {name: _tensor(source, name, entry, body) for name, entry in header.items()}
    _check_gapless(source, tensors, body, file_bytes)
    return tensors


def read_metadata(source: str, file: BinaryIO) -> dict[str, str]:
    """The texts that a file holds beside its tensors. Raises ConfigError as read_header does."""
    read_header(source, file)
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    texts = _parse(source, file.read(length)).get(_METADATA, {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _broken(source, "its metadata are not texts")
    return texts


def read_tensor(source: str, file: BinaryIO, tensor: StoredTensor) -> NDArray[np.float32]:
    """The values of a tensor whose dtype is in DTYPE_BYTES, as float32 of its shape.

    Raises ConfigError if the file has become shorter.
    """
    file.seek(tensor.begin)
    content = file.read(tensor.end - tensor.begin)
    if len(content) < tensor.end - tensor.begin:
        raise _broken(source, "it was changed while it was read")
    if tensor.dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(content, "<u2").astype("<u4") << np.uint32(16)
        return wide.view("<f4").reshape(tensor.shape)
    values = np.frombuffer(content, "<f2" if tensor.dtype == "F16" else "<f4")
    return values.astype(np.float32, copy=False).reshape(tensor.shape)


def _parse(source: str, content: bytes) -> dict[str, Any]:
    def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("a name stands in it twice")
        return dict(pairs)

    try:
        header = json.loads(content.decode("utf-8"), object_pairs_hook=no_name_twice)
    except (ValueError, RecursionError) as error:
        raise _broken(source, f"its header is not what the format asks for: {error}") from None
    if not isinstance(header, dict):
        raise _broken(source, "its header is no map of tensors")
    return header


def _tensor(source: str, name: str, entry: Any, body: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            numbers = [*shape, begin, end]
        case _:
            raise _broken(source, f"its header does not describe {name[:64]!r} as the format asks")
    if len(shape) > TENSOR_DIMENSIONS_MAX or not all(map(_is_size, numbers)):
        raise _broken(source, f"its header gives {name[:64]!r} an impossible shape or place")
    size = DTYPE_BYTES.get(dtype)
    if begin > end or (size is not None and end - begin != size * math.prod(shape)):
        raise _broken(source, f"its header gives {name[:64]!r} more or fewer bytes than its shape")
    return StoredTensor(dtype[:16], tuple(shape), body + begin, body + end)


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 63


def _check_gapless(
    source: str, tensors: dict[str, StoredTensor], body: int, file_bytes: int
) -> None:
    at = body
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != at:
            raise _broken(source, "its tensors overlap, or there are bytes between them")
        at = tensor.end
    if at != file_bytes:
        raise _broken(source, f"its header promises {at:,} bytes and it has {file_bytes:,}")


def _broken(source: str, why: str) -> ConfigError:
    return unusable(source, why, "Fetch or export the file again.")

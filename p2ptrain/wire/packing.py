"""The subset of MessagePack that is canonical here: each value has one, shortest, encoding.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md. Only nil, false, true, unsigned
integers, text, byte strings and arrays are used; protocol/encoding.md section 2 is the table.
A reader takes the bytes and a position, and returns the value and the position behind it. It
raises EncodingError, or IndexError where the bytes end before a head does.
"""

from collections.abc import Callable

Out = Callable[[bytes], None]  # takes the next bytes, such as list.append

INT_MAX = (1 << 63) - 1


class EncodingError(ValueError):
    """The bytes break a rule of protocol/encoding.md section 3; `rule` is its number."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule


SMALL_INTS = [bytes([i]) for i in range(0x80)]


def write_int(value: int, out: Out) -> None:
    """Write 0 <= value < 2**63. Raises ValueError outside."""
    if 0 <= value < 0x80:
        out(SMALL_INTS[value])
    elif 0 <= value < 1 << 8:
        out(bytes([0xCC, value]))
    elif 0 <= value < 1 << 16:
        out(b"\xcd" + value.to_bytes(2, "big"))
    elif 0 <= value < 1 << 32:
        out(b"\xce" + value.to_bytes(4, "big"))
    elif 0 <= value <= INT_MAX:
        out(b"\xcf" + value.to_bytes(8, "big"))
    else:
        raise ValueError(f"an integer on the wire lies in 0..2**63-1, not {value}")


INT_FORMS = {0xCC: (1, 0x80), 0xCD: (2, 1 << 8), 0xCE: (4, 1 << 16), 0xCF: (8, 1 << 32)}


def read_int(data: bytes, at: int) -> tuple[int, int]:
    """Read what write_int writes."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    form = INT_FORMS.get(first)
    if form is None:
        raise EncodingError("3.3", f"byte {first:#04x} where an integer begins")
    size, least = form
    end = at + 1 + size
    value = int.from_bytes(data[at + 1 : end], "big")
    if end > len(data):
        raise EncodingError("3.1", "the bytes end inside an integer")
    if value < least:
        raise EncodingError("3.4", f"the integer {value} in {size} bytes has a shorter form")
    if value > INT_MAX:
        raise EncodingError("3.5", "an integer above 2**63-1")
    return value, end


def array_head(count: int) -> bytes:
    """Head of an array of up to 65535 elements."""
    if count < 16:
        return bytes([0x90 | count])
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    raise ValueError(f"an array of {count} elements has no form here")


def bin_head(size: int) -> bytes:
    """Head of a byte string."""
    if size < 1 << 8:
        return bytes([0xC4, size])
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


def text_head(size: int) -> bytes:
    """Head of a text of `size` bytes of UTF-8, up to 65535."""
    if size < 32:
        return bytes([0xA0 | size])
    if size < 1 << 8:
        return bytes([0xD9, size])
    if size < 1 << 16:
        return b"\xda" + size.to_bytes(2, "big")
    raise ValueError(f"a text of {size} bytes has no form here")


def _read_head(
    data: bytes, at: int, what: str, forms: dict[int, tuple[int, int]], most: int
) -> tuple[int, int]:
    """Length and the position behind a head; forms: first byte -> bytes of length, least value."""
    form = forms.get(data[at])
    if form is None:
        raise EncodingError("3.3", f"byte {data[at]:#04x} where {what} begins")
    size, least = form
    end = at + 1 + size
    if end > len(data):
        raise EncodingError("3.1", f"the bytes end inside the head of {what}")
    length = int.from_bytes(data[at + 1 : end], "big")
    if length < least:
        raise EncodingError("3.4", f"the length {length} of {what} has a shorter form")
    if length > most:
        raise EncodingError("3.7", f"{what} of {length}, where {most} is the most")
    return length, end


ARRAY_FORMS = {0xDC: (2, 16)}
BIN_FORMS = {0xC4: (1, 0), 0xC5: (2, 1 << 8), 0xC6: (4, 1 << 16)}
TEXT_FORMS = {0xD9: (1, 32), 0xDA: (2, 1 << 8)}


def read_array_head(data: bytes, at: int, most: int) -> tuple[int, int]:
    """Read an array's head; its elements follow."""
    first = data[at]
    if first & 0xF0 != 0x90:
        return _read_head(data, at, "an array", ARRAY_FORMS, most)
    if first & 0x0F > most:
        raise EncodingError("3.7", f"an array of {first & 0x0F}, where {most} is the most")
    return first & 0x0F, at + 1


def read_bin(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """Read a byte string of up to `most` bytes."""
    size, start = _read_head(data, at, "a byte string", BIN_FORMS, most)
    return _slice(data, start, size)


def _slice(data: bytes, start: int, size: int) -> tuple[bytes, int]:
    end = start + size
    if end > len(data):
        raise EncodingError("3.1", f"{size} bytes announced, {len(data) - start} there")
    return data[start:end], end


def write_text(value: str, most: int, out: Out) -> None:
    """Write a text of up to `most` bytes of UTF-8. Raises ValueError if it is longer."""
    content = value.encode()
    if len(content) > most:
        raise ValueError(f"a text of {len(content)} bytes, where {most} is the most")
    out(text_head(len(content)) + content)


def read_text(data: bytes, at: int, most: int) -> tuple[str, int]:
    """Read a text of up to `most` bytes of UTF-8."""
    first = data[at]
    if first & 0xE0 == 0xA0:
        size, start = first & 0x1F, at + 1
        if size > most:
            raise EncodingError("3.7", f"a text of {size} bytes, where {most} is the most")
    else:
        size, start = _read_head(data, at, "a text", TEXT_FORMS, most)
    content, end = _slice(data, start, size)
    try:
        return content.decode(), end
    except UnicodeDecodeError:
        raise EncodingError("3.10", "a text that is not UTF-8") from None

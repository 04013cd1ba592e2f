"""Messages as JSON, for protocol/vectors, and their schemas as text, for protocol/*.md.

Both follow the field types, as wire/codec.py does, but share no code with it: JSON writes bytes in
hex and squared norms as decimal text, and puts the name of the kind in front of an object.
"""

import types
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from p2ptrain.wire import announcing, messages, statements
from p2ptrain.wire.codec import CODES
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.fields import AtMost, Each, Exactly, Only
from p2ptrain.wire.peer_id import PeerId

KINDS: dict[str, type] = {
    name: value
    for module in (announcing, messages, statements)
    for name, value in vars(module).items()
    if isinstance(value, type) and is_dataclass(value) and value.__module__ == module.__name__
}


def to_json(value: Any, hint: Any = None) -> Any:
    """A message, statement or part as JSON values."""
    if is_dataclass(value):
        hints = get_type_hints(type(value))
        members = {f.name: to_json(getattr(value, f.name), hints[f.name]) for f in fields(value)}
        return {type(value).__name__: members}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [to_json(item, get_args(hint)[0]) for item in value]
    return str(value) if hint is messages.Norm2 else value


def from_json(value: Any, hint: Any = None) -> Any:
    """The message again. Raises ValueError if it cannot exist."""
    if isinstance(value, dict):
        ((name, members),) = value.items()
        hints = get_type_hints(KINDS[name])
        return KINDS[name](**{key: from_json(v, hints[key]) for key, v in members.items()})
    if isinstance(value, list):
        return tuple(from_json(item, get_args(hint)[0]) for item in value)
    if hint in (bytes, Digest):
        return bytes.fromhex(value)
    return int(value) if hint is messages.Norm2 else value


def schema_of(kind: type) -> str:
    """The schema of a message, statement or part, as the documents must show it."""
    hints = get_type_hints(kind, include_extras=True)
    code = f" = {CODES[kind]}" if kind in CODES else ""
    width = max(len(name) for name in hints)
    lines = [f"  {name:{width}}  {_type_text(hint)}" for name, hint in hints.items()]
    return "\n".join([kind.__name__ + code, *lines])


PLAIN = {int: "int", Digest: "digest", PeerId: "peer", messages.Norm2: "norm2", str: "text"}


def _type_text(hint: Any) -> str:
    marks: list[Any] = []
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
    bounds = "".join(f" <= {mark.count}" for mark in marks if isinstance(mark, AtMost))
    only = "".join(f" of {' | '.join(mark.statements)}" for mark in marks if isinstance(mark, Only))
    if get_origin(hint) is tuple:
        each = "".join(f" <= {mark.count}" for mark in marks if isinstance(mark, Each))
        return f"[{_type_text(get_args(hint)[0])}{each}{only}]{bounds}"
    if get_origin(hint) in (Union, types.UnionType):
        some = [_type_text(kind) for kind in get_args(hint) if kind is not types.NoneType]
        return " | ".join([*some, *(["nil"] if len(some) < len(get_args(hint)) else [])])
    if hint is bytes:
        exactly = "".join(f" {mark.count}" for mark in marks if isinstance(mark, Exactly))
        return f"bytes{exactly}{bounds}"
    return PLAIN.get(hint, getattr(hint, "__name__", "?")) + only + bounds

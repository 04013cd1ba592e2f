"""Turn what pydantic found wrong with a recipe into lines that a person can act on.

Every line names the key, the value that was given and what is allowed there. A key that does not
exist gets the nearest one that does.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

# What people write who come from other programs.
SYNONYMS = {"lr": "learning_rate", "steps": "local_steps", "eps": "epsilon", "wd": "weight_decay"}
VALUE_CHARS_MAX = 60


def describe_errors(
    model: type[BaseModel], errors: Sequence[ErrorDetails], alias: Mapping[str, str] = SYNONYMS
) -> list[str]:
    """One line for each thing that is wrong, in the order in which pydantic found them."""
    return [_line(model, error, alias) for error in errors]


def _line(model: type[BaseModel], error: ErrorDetails, alias: Mapping[str, str]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(_without_tags(model, path))
    if error["type"] == "extra_forbidden":
        suggestion = _suggestion(_section(model, path), key.split("."), alias)
        return f"{key}: there is no such key; {suggestion}"
    field = _field(model, path)
    meaning = f" ({field.description})" if field and field.description else ""
    if error["type"] == "missing":
        return f"{key}: is missing{meaning}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and not field:
        return f"{key}: {message}" if key else message
    return f"{key} = {_shown(error['input'])}: {_lowered(message)}{meaning}"


def _suggestion(
    section: type[BaseModel] | None, path: Sequence[str], alias: Mapping[str, str]
) -> str:
    """What the last key of a path without tags may have been meant to be."""
    known = list(section.model_fields) if section else []
    wanted = path[-1]
    near = [alias[wanted]] if alias.get(wanted) in known else []
    near = near or difflib.get_close_matches(wanted, known, n=1)
    allowed = "allowed here: " + ", ".join(known)
    return f"did you mean {'.'.join([*path[:-1], near[0]])}? ({allowed})" if near else allowed


def _without_tags(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The path as a recipe spells it: pydantic puts the kind of a section that has several in."""
    tagged = [
        index
        for index in range(1, len(path))
        if _annotation(model, path[:index]) is not None
        and path[index] in _kinds(_annotation(model, path[:index]))
    ]
    return [name for index, name in enumerate(path) if index not in tagged]


def _section(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The model that holds the last key of the path."""
    kind = model if len(path) == 1 else _annotation(model, path[:-1])
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _annotation(model: type[BaseModel], path: Sequence[str]) -> Any:
    """The type of what a path leads to; None if it leads nowhere."""
    kind: Any = model
    for name in path:
        kinds = _kinds(kind)
        if name in kinds:
            kind = kinds[name]
            continue
        if get_origin(kind) is tuple and name.isdigit():  # a table of a list of tables
            kind = get_args(kind)[0]
            continue
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        field = kind.model_fields.get(name) if is_section else None
        kind = field.annotation if field else None
    return kind


def _kinds(annotation: Any) -> dict[str, type[BaseModel]]:
    """The sections of a discriminated union, by tag; of anything else, none."""
    found = {}
    for option in get_args(annotation):
        section, *metadata = get_args(option) or (option,)
        for mark in metadata:
            if isinstance(mark, Tag):
                found[mark.tag] = section
    return found


def _field(model: type[BaseModel], path: Sequence[str]) -> FieldInfo | None:
    """The field that a path ends in; for an item of a list, the list. None for the recipe."""
    for end in range(len(path), 0, -1):
        section = _section(model, path[:end])
        if section and path[end - 1] in section.model_fields:
            return section.model_fields[path[end - 1]]
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 3] + "..."


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]

"""`p2ptrain schema`: it agrees with the classes that check recipes, and with the recipes we ship.

jsonschema is no dependency of ours, so `problems` below validates by the few keywords that the
schema uses; a keyword that it does not know fails a test.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from p2ptrain.cli.main import app
from p2ptrain.cli.schema import recipe_schema
from p2ptrain.config import Recipe
from p2ptrain.config_section import Section
from p2ptrain.data.shipped import RECIPES, recipe_path
from p2ptrain.errors import ConfigError

SCHEMA = recipe_schema()
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
ANNOTATIONS = {"title", "description", "default", "$defs", "$id", "$schema"}
CHECKED = {
    "type", "$ref", "properties", "required", "additionalProperties", "items", "minItems",
    "maxItems", "enum", "const", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "oneOf", "prefixItems", "maxLength",
}  # fmt: skip
RECIPE = tomllib.loads(recipe_path("digits").read_text("utf-8"))


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: dict[str, Any] = SCHEMA["$defs"][reference.removeprefix("#/$defs/")]
    return {**found, **schema}


def problems(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where a value breaks a schema."""
    schema = resolved(schema)
    if "oneOf" in schema:
        yield from least([list(problems(value, option, path)) for option in schema["oneOf"]])
        return
    kind = TYPES[schema["type"]]
    if not isinstance(value, kind) or isinstance(value, bool) != (kind == (bool,)):
        yield f"{path}: not {schema['type']}"
        return
    if isinstance(value, dict):
        properties = schema["properties"]
        yield from (
            f"{path}.{key}: missing" for key in schema.get("required", ()) if key not in value
        )
        for key, inner in value.items():
            if key in properties:
                yield from problems(inner, properties[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}: unknown"
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema["maxItems"]:
            yield f"{path}: {len(value)} items"
            return
        kinds = schema.get("prefixItems") or [schema["items"]] * len(value)
        for inner, inner_schema in zip(value, kinds, strict=True):
            yield from problems(inner, inner_schema, path)
    elif not allowed(value, schema):
        yield f"{path}: {value!r}"


def least(of_options: list[list[str]]) -> list[str]:
    """What is wrong by the kind of section that is meant: the one with the fewest problems."""
    return min(of_options, key=len)


def allowed(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a string or number keeps every keyword."""
    if isinstance(value, str):
        return (
            value in schema.get("enum", [value])
            and value == schema.get("const", value)
            and len(value) <= schema.get("maxLength", len(value))
            and re.search(schema.get("pattern", ""), value) is not None
        )
    return bool(
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and not value <= schema.get("exclusiveMinimum", value - 1)
        and not value >= schema.get("exclusiveMaximum", value + 1)
        and value % schema.get("multipleOf", value or 1) == 0
    )


def sections(annotation: Any) -> Iterator[type[Section]]:
    """The classes of a section: one, or one for each kind."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from sections(part)


def keys(section: type[Section], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of a recipe, with what the schema says of it."""
    here = SCHEMA if section is Recipe else SCHEMA["$defs"][section.__name__]
    assert set(here["properties"]) == set(section.model_fields)
    assert here["additionalProperties"] is False
    for name, field in section.model_fields.items():
        yield f"{path}{name}", resolved(here["properties"][name])
        for kind in sections(field.annotation):
            yield from keys(kind, f"{path}{name}.")


@pytest.mark.parametrize("name", RECIPES)
def test_the_bundled_recipes_keep_the_schema(name: str) -> None:
    tree = tomllib.loads(recipe_path(name).read_text("utf-8"))
    assert list(problems(tree, SCHEMA)) == []


def name_of(value: object) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("key", "said"), list(keys(Recipe)), ids=name_of)
def test_every_key_of_a_recipe_is_in_the_schema_and_is_described(
    key: str, said: dict[str, Any]
) -> None:
    assert said.get("description") or "oneOf" in said, key
    assert said.get("type") in TYPES or "oneOf" in said, key
    unknown = set(said) - ANNOTATIONS - CHECKED
    assert not unknown, f"{key}: problems() must learn {unknown}"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("", "rounds", 0),
        ("", "rounds", "many"),
        ("", "name", "a/b"),
        ("", "colour", "red"),
        ("", "seed", -1),
        ("model", "layers", [64]),
        ("model", "layers", [64, 0]),
        ("model", "kind", "transformer"),
        ("inner", "lr", 0.1),
        ("inner", "optimizer", "lion"),
        ("inner", "momentum", 1),
        ("outer", "learning_rate", 0),
        ("averaging", "shard_values", 4097),
        ("data", "scale", 0),
    ],
)
def test_what_the_program_refuses_of_a_key_the_schema_refuses(
    section: str, key: str, value: Any
) -> None:
    tree = json.loads(json.dumps(RECIPE))
    (tree.setdefault(section, {}) if section else tree)[key] = value
    assert list(problems(tree, SCHEMA)), "the schema takes it"
    with pytest.raises(ConfigError):
        Recipe._from_tree(tree, "recipe")


def test_a_section_that_is_missing_is_refused_too() -> None:
    without = {key: value for key, value in RECIPE.items() if key != "inner"}
    assert list(problems(without, SCHEMA)) == [".inner: missing"]


def test_the_schema_says_what_it_is_and_what_it_is_written_in() -> None:
    assert SCHEMA["title"] == "p2ptrain recipe"
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert re.fullmatch("urn:p2ptrain:recipe:[0-9a-f]{16}", SCHEMA["$id"])
    assert recipe_schema() == SCHEMA


def test_schema_is_printed_or_written(tmp_path: Path) -> None:
    out = tmp_path / "new" / "recipe.schema.json"
    printed = CliRunner().invoke(app, ["schema"])
    written = CliRunner().invoke(app, ["schema", "--out", str(out)])
    assert printed.exit_code == written.exit_code == 0
    assert json.loads(printed.stdout) == SCHEMA
    assert out.read_text("utf-8") == printed.stdout
    assert str(out) in written.stdout

"""The recipe: what is accepted, what is refused and with which words, and the swarm's name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.config import ARITHMETIC, Recipe
from p2ptrain.config_local import SwarmLink, node_config, parse_link
from p2ptrain.data.shipped import RECIPE_FOLDER, RECIPES, recipe_path
from p2ptrain.errors import ConfigError
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.document import pack_document, unpack_document
from p2ptrain.wire.peer_id import peer_id_of

FOUNDER = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
OTHER = peer_id_of(bytes(32))
DATA = cid_of(b"")
MINIMAL = f"""
name = "first"
rounds = 5
[data]
cid = "{DATA}"
[model]
layers = [64, 16, 10]
[inner]
optimizer = "sgd"
learning_rate = 0.1
batch = 8
local_steps = 2
"""
FEW = "[averaging]\ncodec = '{}'\n[outer]\noptimizer = 'nesterov'\nmomentum = 0.5\n"
# The canonical bytes are what swarm ids are made of: a change here renames every swarm.
MINIMAL_ID = "bafkreigkyq423b5hscpqc3qfrxhsid5m5rfxu3gbl7kjmjuocsidd3r2ju"


def changed(old: str, new: str) -> str:
    assert old in MINIMAL
    return MINIMAL.replace(old, new)


def test_a_recipe_with_defaults_has_one_name() -> None:
    assert Recipe.from_toml(MINIMAL).swarm_id == MINIMAL_ID


def test_comments_and_the_order_of_keys_do_not_change_the_name() -> None:
    text = changed("batch = 8\nlocal_steps = 2", "local_steps = 2  # two\nbatch = 8")
    assert Recipe.from_toml(text).swarm_id == MINIMAL_ID


def test_a_default_written_out_does_not_change_the_name() -> None:
    assert Recipe.from_toml(MINIMAL + "momentum = 0.9\n").swarm_id == MINIMAL_ID


def test_any_other_value_changes_the_name() -> None:
    assert Recipe.from_toml(changed("rounds = 5", "rounds = 6")).swarm_id != MINIMAL_ID


def test_an_integer_where_a_float_is_meant_is_that_float() -> None:
    whole = Recipe.from_toml(changed("learning_rate = 0.1", "learning_rate = 1"))
    assert whole == Recipe.from_toml(changed("learning_rate = 0.1", "learning_rate = 1.0"))


@given(
    st.integers(1, 1_000_000_000),
    st.integers(0, 2**63 - 1),
    st.floats(1e-9, 100),
    st.lists(st.integers(1, 2000), min_size=2, max_size=6),
)
def test_canonical_bytes_give_the_recipe_back(
    rounds: int, seed: int, rate: float, layers: list[int]
) -> None:
    tree = Recipe.from_toml(MINIMAL).model_dump()
    tree |= {"rounds": rounds, "seed": seed, "model": {"layers": layers}}
    tree["inner"] |= {"learning_rate": rate}
    recipe = Recipe.model_validate(tree)
    assert Recipe.from_canonical(recipe.canonical) == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (changed("batch = 8", "batch = 0"), "inner.batch = 0: .*greater than or equal to 1"),
        (changed("batch = 8", "batch = '8'"), "inner.batch = '8': .*valid integer"),
        (changed("batch = 8", "batch = true"), "inner.batch = True: .*valid integer"),
        (changed("batch = 8", ""), "inner.batch: is missing .samples in a local step"),
        (changed("[inner]", "[inner]\nlr = 1"), "inner.lr: .*did you mean inner.learning_rate"),
        (changed("[inner]", "[inner]\nbatch_size = 1"), "batch_size: .*did you mean inner.batch"),
        (changed("[inner]", "[iner]"), "iner: .*did you mean inner"),
        (changed("[inner]", "zzz = 1\n[inner]"), "model.zzz: .*allowed here: kind, layers"),
        (changed("0.1", "nan"), "inner.learning_rate = nan: .*finite"),
        (changed("'sgd'".replace("'", '"'), '"lion"'), "optimizer = 'lion': .*'sgd' or 'adamw'"),
        (changed("[64, 16, 10]", "[64, 0]"), "model.layers.1 = 0"),
        (changed("[64, 16, 10]", "[64]"), "model.layers = .*at least 2"),
        (changed("[64, 16, 10]", "[1000000, 1000000]"), "model.layers make 1,000,001,000,000"),
        (changed(DATA, "Qmnope"), "data.cid = 'Qmnope': .*bafkrei"),
        (changed('"first"', '"\\u001b[31m"'), "name = .*pattern"),
        (MINIMAL + "[averaging]\nshard_values = 5000\n", "shard_values = 5000: .*multiple of 4096"),
        (MINIMAL + "[averaging]\ncodec = 'int3'\n", "codec = 'int3': .*'topk', 'int2', 'int4'"),
        (MINIMAL + "[averaging]\ncodec = 'topk'\ntopk = 100\n", "topk = 100: .*64, 128, 256"),
        (MINIMAL + FEW.format("int2"), "'int2' needs outer.optimizer = 'plain': .*both at once"),
        (MINIMAL + FEW.format("topk"), "'topk' needs outer.optimizer = 'plain': .*both at once"),
        (MINIMAL + "[outer]\nmomentum = 0.5\n", "outer = .*plain has no momentum"),
        (MINIMAL + "[outer]\noptimizer = 'nesterov'\nmomentum = 0.95\n", "momentum = 0.95: .*0.9"),
        (MINIMAL + "[admission]\nmode = 'invite'\n", "admission.mode = 'invite': .*'open'"),
        (MINIMAL + "[founder]\nkey = 'me'\n", "founder.key = 'me'"),
        (MINIMAL + "oops\n", r"not valid TOML: .*(line \d+|end of document)"),
        (changed("rounds = 5", "rounds = 5\narithmetic = 3"), "(?s)arithmetic = 3.*pip install"),
        ("x" * 70_000, "longer than"),
    ],
)
def test_what_is_wrong_is_named_with_its_key_value_and_what_is_allowed(
    text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Recipe.from_toml(text)


def test_all_that_is_wrong_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_toml(changed("batch = 8", "batch = 0").replace("rounds = 5", "rounds = 0"))
    assert "inner.batch" in str(caught.value)
    assert "rounds = 0" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\x91" * 5000,
        pack_document({"name": "x"}),
        pack_document([1]),
        Recipe.from_toml(MINIMAL).canonical + b"\0",
        # Defaults left out: a second spelling of one recipe.
        pack_document(
            {
                key: value
                for key, value in Recipe.from_toml(MINIMAL).model_dump().items()
                if key != "outer"
            }
        ),
    ],
)
def test_bytes_that_are_not_canonical_are_refused(content: bytes) -> None:
    with pytest.raises(ConfigError):
        Recipe.from_canonical(content)


def test_founding_writes_the_key_in_once() -> None:
    recipe = Recipe.from_toml(MINIMAL)
    founded = recipe.founded_by(FOUNDER)
    assert founded.founder.key == FOUNDER
    assert founded.swarm_id != recipe.swarm_id
    assert founded.founded_by(FOUNDER) == founded
    with pytest.raises(ConfigError, match="founded by another peer"):
        founded.founded_by(OTHER)
    with pytest.raises(ConfigError, match=r"founder\.key"):
        recipe.founded_by("somebody")


def test_a_file_that_is_not_there_or_no_text_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="p2ptrain init"):
        Recipe.from_file(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        Recipe.from_file(tmp_path / "binary.toml")


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_that_come_with_the_program_are_valid(name: str) -> None:
    recipe = Recipe.from_file(recipe_path(name))
    assert (recipe.name, recipe.arithmetic) == (name, ARITHMETIC)


def test_every_recipe_of_the_folder_is_one_that_init_writes() -> None:
    assert {path.stem for path in RECIPE_FOLDER.iterdir()} == set(RECIPES)


def test_the_published_schema_describes_every_key() -> None:
    schema = Recipe.model_json_schema()
    for section in schema["$defs"].values():
        assert all("description" in key for key in section["properties"].values())


def test_a_link_is_read_as_it_was_written() -> None:
    link = SwarmLink(
        DATA, (f"/ip4/192.0.2.1/tcp/4001/p2p/{FOUNDER}", "/ip6zone/e&h0/ip6/::1/tcp/1")
    )
    assert parse_link(str(link)) == link
    assert str(SwarmLink(DATA)) == f"p2ptrain:{DATA}"
    assert parse_link(f" {DATA}\n") == SwarmLink(DATA)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p2ptrain:",
        "p2ptrain:bafkrei",
        f"magnet:{DATA}",
        f"p2ptrain:{DATA}?peer=example.org",
        f"p2ptrain:{DATA}?peer",
        f"p2ptrain:{DATA}?relay=/ip4/1.2.3.4/tcp/1",
        f"p2ptrain:{DATA}?peer=/ip4/%1b[31m",
        f"p2ptrain:{DATA}?" + "&".join(["peer=/ip4/1.2.3.4/tcp/1"] * 17),
        f"p2ptrain:{DATA}?peer=/" + "x" * 600,
        f"p2ptrain:{DATA}?peer=/" + "x" * 9000,
    ],
)
def test_a_bad_link_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="A link is one line"):
        parse_link(text)


def test_home_beats_environment_beats_xdg(tmp_path: Path) -> None:
    environment = {"P2PTRAIN_HOME": "/env", "XDG_STATE_HOME": "/xdg", "HOME": "/me"}
    assert node_config(tmp_path, environment).state_path == tmp_path / "state"
    assert node_config(None, environment).blocks_path == Path("/env/data/blocks")
    del environment["P2PTRAIN_HOME"]
    assert node_config(None, environment).state_path == Path("/xdg/p2ptrain")
    assert node_config(None, environment).identity_path == Path("/me/.config/p2ptrain/identity")
    assert node_config(None, {**environment, "XDG_STATE_HOME": "relative"}).state_path == Path(
        "/me/.local/state/p2ptrain"
    )
    with pytest.raises(ConfigError, match="--home"):
        node_config(None, {})


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text(max_size=8)
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_a_document_has_one_encoding_and_comes_back(tree: object) -> None:
    assert unpack_document(pack_document(tree)) == tree


@pytest.mark.parametrize(
    "content",
    [
        b"\x82\xa1b\x01\xa1a\x02",  # keys out of order
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\xcc\x05",  # an integer in a longer form
        b"\xca\x3f\x80\x00\x00",  # float32
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN
        b"\xc4\x01\x00",  # bytes
        b"\xd4\x01\x00",  # an extension
        b"\xd6\xff\x00\x00\x00\x01",  # a timestamp
        b"\x81\x01\x01",  # a key that is no text
        b"\x81\xc4\x01a\x01",  # a key of bytes
        b"\xa1\xff",  # not UTF-8
        b"\x05\x05",  # more after the end
        b"\x92\x05",  # cut short
        b"\xdf\xff\xff\xff\xff",  # a claim of 4 billion keys
        b"\x91" * 100 + b"\x05",  # too deep
    ],
)
def test_a_document_in_another_form_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no canonical document"):
        unpack_document(content)


@pytest.mark.parametrize(("codec", "rounds"), [("int8", 0), ("int4", 0), ("int2", 8), ("topk", 8)])
def test_few_levels_warm_up_unless_the_recipe_says_otherwise(codec: str, rounds: int) -> None:
    recipe = Recipe.from_toml(MINIMAL + f"[averaging]\ncodec = '{codec}'\n")
    assert recipe.averaging.warmup_rounds == rounds
    assert Recipe.from_canonical(recipe.canonical) == recipe
    other = Recipe.from_toml(MINIMAL + f"[averaging]\ncodec = '{codec}'\nwarmup_rounds = 3\n")
    assert other.averaging.warmup_rounds == 3
    assert Recipe.from_canonical(other.canonical) == other


def test_the_codec_of_a_round_follows_from_the_recipe_and_the_round() -> None:
    text = MINIMAL + "[averaging]\ncodec = 'topk'\ntopk = 64\nwarmup_rounds = 2\n"
    averaging = Recipe.from_toml(text).averaging
    assert [averaging.number_after(rounds) for rounds in range(4)] == [8, 8, 4160, 4160]


def test_local_steps_have_bounds_in_order() -> None:
    inner = Recipe.from_toml(MINIMAL + "local_steps_max = 8\n").inner
    assert (inner.local_steps_min, inner.local_steps, inner.steps_max) == (1, 2, 8)
    assert Recipe.from_toml(MINIMAL).inner.steps_max == 2, "H stays unless the recipe says more"
    with pytest.raises(ConfigError, match="local_steps_min is above local_steps"):
        Recipe.from_toml(MINIMAL + "local_steps_min = 3\n")
    with pytest.raises(ConfigError, match="local_steps_max is below local_steps"):
        Recipe.from_toml(MINIMAL + "local_steps_max = 1\n")

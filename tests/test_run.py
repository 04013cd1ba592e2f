"""What a run takes from its recipe, and what its user may choose within it."""

import pytest

from p2ptrain.config import Recipe
from p2ptrain.data.shipped import recipe_path
from p2ptrain.errors import ConfigError
from p2ptrain.node.run import local_steps_of, settings_of

DIGITS = Recipe.from_file(recipe_path("digits"))


@pytest.mark.parametrize(("wanted", "declared"), [(None, 5), (1, 1), (5, 5)])
def test_a_slow_peer_declares_fewer_local_steps(wanted: int | None, declared: int) -> None:
    assert local_steps_of(DIGITS, wanted) == declared


@pytest.mark.parametrize("wanted", [0, 6])
def test_nobody_takes_more_steps_than_the_recipe_has(wanted: int) -> None:
    with pytest.raises(ConfigError, match="from 1 to 5"):
        local_steps_of(DIGITS, wanted)


def test_no_contribution_may_weigh_more_than_the_recipes_steps() -> None:
    settings = settings_of(DIGITS, (2052,) * 5)
    assert settings.weight_max == 32 * 5
    assert settings.codec == 4
    assert settings.norm_max2 == 100 << 64

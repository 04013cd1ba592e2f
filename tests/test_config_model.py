"""The models of a recipe: layers as text, the three kinds, and what belongs to which of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.config import Recipe
from p2ptrain.config_layers import (
    Activation,
    Conv,
    Dropout,
    GlobalPool,
    LayerText,
    Linear,
    Norm,
    Pool,
    PoolTo,
    Residual,
    parse_layer,
)
from p2ptrain.data.shipped import recipe_path
from p2ptrain.errors import ConfigError
from p2ptrain.model.networks import network_of
from p2ptrain.wire.limits import KERNEL_MAX, LAYER_CHARS_MAX, LAYER_WIDTH_MAX, STRIDE_MAX

CONVNET = """
name = "pictures"
rounds = 10
[data]
cid = "bafkreidg77373eh3areqzcxs3ch5x7pzwltjlbwt2svhvfxq35yhzr4psq"
[model]
kind = "convnet"
input = [28, 28, 1]
layers = ["conv 3x3 8", "relu", "max-pool 2", "residual 16 stride 2", "global-pool", "linear 10"]
[inner]
optimizer = "sgd"
learning_rate = 0.1
batch = 4
local_steps = 1
"""

widths = st.integers(1, LAYER_WIDTH_MAX)
strides = st.integers(1, STRIDE_MAX)
kernels = st.integers(1, KERNEL_MAX)
layers = st.one_of(
    st.builds(
        Conv, kernels, widths, strides, st.none() | st.integers(0, KERNEL_MAX), st.booleans()
    ),
    st.builds(Norm, widths),
    st.builds(Activation, st.sampled_from(["relu", "gelu"])),
    st.builds(Pool, st.sampled_from(["max", "average"]), kernels, strides),
    st.builds(PoolTo, st.sampled_from(["max", "average"]), kernels),
    st.builds(GlobalPool),
    st.builds(Residual, widths, strides, widths),
    st.builds(Dropout, st.integers(1, 99).map(lambda percent: percent / 100)),
    st.builds(Linear, widths),
)


@given(layers)
def test_a_layer_reads_back_from_its_text(layer: LayerText) -> None:
    assert parse_layer(str(layer)) == layer
    assert len(str(layer)) <= LAYER_CHARS_MAX


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no layer; there are conv"),
        ("convolution 3x3 8", "no layer; there are conv"),
        ("conv 3 8", "1x1 to"),
        ("conv 3x5 8", "1x1 to"),
        ("conv 12x12 8", "1x1 to"),
        ("conv 3x3", "channels is a number from 1"),
        ("conv 3x3 0", "channels is a number from 1"),
        ("conv 3x3 8 stride 9", "stride is a number from 1 to 8"),
        ("conv 3x3 8 no-bias stride 2", "means nothing here"),
        ("conv 3x3 8 stride 1", "write it as 'conv 3x3 8'"),
        ("conv  3x3 8", "write it as 'conv 3x3 8'"),
        ("conv 3x3 08", "write it as 'conv 3x3 8'"),
        ("residual 64 groups 8", "write it as 'residual 64'"),
        ("max-pool 2 stride 2", "write it as 'max-pool 2'"),
        ("dropout 1.0", "above 0 and below 1"),
        ("dropout often", "above 0 and below 1"),
        ("dropout nan", "above 0 and below 1"),
        ("relu 6", "means nothing here"),
    ],
)
def test_a_text_that_is_no_layer_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_layer(text)


def changed(old: str, new: str) -> str:
    assert old in CONVNET
    return CONVNET.replace(old, new)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed('"relu"', '"rely"'), r"model\.layers\.1 = 'rely': .*no layer"),
        (changed("[28, 28, 1]", "[28, 28]"), r"model\.input"),
        (changed('kind = "convnet"', 'kind = "resnet"'), "model"),
        (changed("[inner]", "width = 3\n[inner]"), r"model\.width: there is no such key"),
        (
            changed("[model]", "mean = [0.5, 0.5]\ndeviation = [1.0, 1.0]\n[model]"),
            "data.mean has 2",
        ),
        (changed("[model]", "mean = [0.5]\n[model]"), "mean and deviation"),
        (changed("[model]", "mean = [0.5]\ndeviation = [0.0]\n[model]"), "above 0"),
        (changed("batch = 4", "warmup_steps = 10\nbatch = 4"), "the run has 10 steps"),
        (CONVNET + "[[phases]]\nrounds = 10\nsize = 14\n", "no round of the run for full"),
        (CONVNET + "[[phases]]\nrounds = 2\nsize = 15\n", "does not divide"),
        (changed("learning_rate", "nesterov = true\nlearning_rate").replace("sgd", "adamw"),
         "nesterov = true needs"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Recipe.from_toml(text)


def test_what_is_for_pictures_is_refused_of_other_models() -> None:
    text = recipe_path("digits").read_text("utf-8")
    with pytest.raises(ConfigError, match="only a convnet"):
        Recipe.from_toml(text.replace("[model]", "flip = true\n[model]"))
    with pytest.raises(ConfigError, match="only a convnet"):
        Recipe.from_toml(text + "[[phases]]\nrounds = 1\nsize = 4\n")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ('["conv 5x5 8 padding 0", "max-pool 2", "conv 11x11 8 padding 0", "max-pool 3"]',
         r"model\.layers\[3\], max-pool 3: a picture of 2 x 2"),
        ('["conv 3x3 8"]', "end with 'linear N'"),
        ('["linear 10", "conv 3x3 8"]', r"model\.layers\[1\], .*needs a picture"),
        ('["conv 3x3 9", "norm 8", "global-pool"]', r"model\.layers\[1\], .*9 channels"),
        ('["residual 12", "global-pool"]', "12 channels"),
        ('["max-pool 4", "max-pool to 8", "linear 10"]', "8 x 8 pixels or more, and 7 x 7"),
    ],
)  # fmt: skip
def test_layers_that_do_not_fit_one_another_are_refused_before_training(
    layers: str, words: str
) -> None:
    old = next(line for line in CONVNET.splitlines() if line.startswith("layers"))
    recipe = Recipe.from_toml(changed(old, f"layers = {layers}"))
    with pytest.raises(ConfigError, match=words):
        network_of(recipe)


def test_smaller_pictures_need_a_network_of_the_same_tensors() -> None:
    phases = "[[phases]]\nrounds = 2\nsize = 14\n"
    network_of(Recipe.from_toml(CONVNET + phases))
    network_of(Recipe.from_toml(changed('"global-pool"', '"max-pool to 3"') + phases))
    with pytest.raises(ConfigError, match="'global-pool' before"):
        network_of(Recipe.from_toml(changed('"global-pool", ', "") + phases))

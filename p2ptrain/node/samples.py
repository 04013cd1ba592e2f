"""The samples of a data set as a recipe's network takes them."""

import numpy as np

from p2ptrain.config import Recipe
from p2ptrain.config_model import GptSection
from p2ptrain.data.assemble import (
    assemble,
    check_fits,
    check_fits_text,
    model_inputs,
    text_streams,
)
from p2ptrain.data.manifest import Manifest
from p2ptrain.model.networks import network_of
from p2ptrain.store.blocks import BlockStore
from p2ptrain.train.local import sample_count
from p2ptrain.train.settings import prepared
from p2ptrain.train.worker_messages import TrainingArrays


def check_data_set(manifest: Manifest, recipe: Recipe) -> None:
    """Check that the network of a recipe can learn a data set. Raises ConfigError."""
    model = recipe.model
    if isinstance(model, GptSection):
        check_fits_text(manifest, model.vocabulary, model.context)
        return
    network = network_of(recipe)
    check_fits(manifest, (network.inputs, network.classes))


def training_samples(manifest: Manifest, recipe: Recipe) -> int:
    """Samples that a round's are drawn from."""
    return sample_count(network_of(recipe), manifest.records("train"))


def training_arrays(blocks: BlockStore, manifest: Manifest, recipe: Recipe) -> TrainingArrays:
    """The data set as the compute process wants it. Raises ConfigError."""
    if isinstance(recipe.model, GptSection):
        text = text_streams(manifest, blocks.get)
        no_labels = np.empty(0, np.int32)
        return TrainingArrays(text.train, no_labels, text.test, no_labels)
    train = assemble(manifest, "train", blocks.get)
    test = assemble(manifest, "test", blocks.get)
    assert train.y is not None
    assert test.y is not None
    scale = recipe.data.scale
    arrays = TrainingArrays(model_inputs(train, scale), train.y, model_inputs(test, scale), test.y)
    return prepared(recipe, arrays)

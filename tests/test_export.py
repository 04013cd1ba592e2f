"""The exported file: the safetensors library reads it, and equal networks make equal files."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from p2ptrain.errors import ConfigError
from p2ptrain.store.export import Provenance, export_network

WHENCE = Provenance(
    swarm_id="bafkrei",
    recipe="80",
    round="7",
    certificate="ab" * 32,
    block="cd" * 32,
    data_cid="bafkrei",
    data_name="digits",
    licence="CC-BY-4.0",
    init_cid="",
    version="0.1.0",
    arithmetic="1",
)
TENSORS = {
    "layer1.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer0.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4).T,
    "layer0.bias": np.array([np.float32(1e-40), -0.0, 3], np.float32),
    "scalar": np.array(5, np.float32),
}


def test_the_library_reads_names_shapes_values_and_provenance(tmp_path: Path) -> None:
    path = tmp_path / "below" / "model.safetensors"
    size = export_network(path, TENSORS, WHENCE)
    assert path.stat().st_size == size
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].shape == tensor.shape
        assert read[name].tobytes() == tensor.tobytes(), "bit for bit"
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert metadata == WHENCE.metadata
    assert metadata["p2ptrain.certificate"] == "ab" * 32


def test_equal_networks_make_equal_files_whatever_the_order(tmp_path: Path) -> None:
    export_network(tmp_path / "a", TENSORS, WHENCE)
    export_network(tmp_path / "b", dict(reversed(TENSORS.items())), WHENCE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (
        hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
        == "aecf908c2aa1c98a7dd45dac2d94220bf73a7e790a4b7b99a7c516bf8b272ca5"
    )


def test_only_a_network_of_text_says_how_text_becomes_tokens(tmp_path: Path) -> None:
    assert not {"p2ptrain.tokeniser", "p2ptrain.vocabulary"} & WHENCE.metadata.keys()
    text = replace(WHENCE, tokeniser="characters", vocabulary="\n\x85é中")
    export_network(tmp_path / "text", TENSORS, text)
    with safe_open(tmp_path / "text", "numpy") as file:
        metadata = file.metadata()
    assert metadata["p2ptrain.tokeniser"] == "characters"
    assert metadata["p2ptrain.vocabulary"] == "\n\x85é中"
    assert replace(WHENCE, tokeniser="bytes").metadata["p2ptrain.vocabulary"] == ""


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name a file"):
        export_network(tmp_path, TENSORS, WHENCE)

"""What the compute process must know of a run, as plain values.

The node reads and checks the recipe (config.py) and makes these of it (settings.py). They travel
pickled, from a process to the child that it started itself, of the same program: nothing else
may be read in this way. The compute process is spared the library that checks recipes, whose
import alone took a fifth of a warm start, and the modules of networks that the run does not train.
"""

import pickle
from dataclasses import dataclass

from p2ptrain.compress.centring import Aggregation
from p2ptrain.model.batches import Network
from p2ptrain.train.local import Presentation
from p2ptrain.train.optimizers import InnerConfig
from p2ptrain.train.outer import OuterConfig
from p2ptrain.wire.limits import WARMUP_CODEC_NUMBER


@dataclass(frozen=True, slots=True)
class Averaging:
    """How contributions are written and averaged.

    shard_values   values of a shard, the last one may have fewer
    number         of the codec, after the warm-up
    warmup_rounds  first rounds, which contribute in int8
    aggregation    the rule by which a set becomes one vector
    """

    shard_values: int
    number: int
    warmup_rounds: int
    aggregation: Aggregation = "mean"

    def number_after(self, rounds: int) -> int:
        """The codec's number in the round after so many."""
        return WARMUP_CODEC_NUMBER if rounds < self.warmup_rounds else self.number


@dataclass(frozen=True, slots=True)
class RunSettings:
    """A run.

    network      what is trained
    inner        the inner optimiser, with its schedule
    shown        how samples are presented
    outer        the outer optimiser
    averaging    how contributions are written
    seed         of the initial parameters
    local_steps  of a round
    phases       a round of each size of pictures that the run trains on
    """

    network: Network
    inner: InnerConfig
    shown: Presentation
    outer: OuterConfig
    averaging: Averaging
    seed: int
    local_steps: int
    phases: tuple[int, ...]

    def packed(self) -> bytes:
        """These settings for a child process; unpack_settings reads them."""
        return pickle.dumps(self)


def unpack_settings(content: bytes) -> RunSettings:
    """The settings that the parent process packed."""
    settings = pickle.loads(content)
    assert isinstance(settings, RunSettings), "the node packs nothing else"
    return settings

"""A story: peers, links, faults and a recipe, as a user writes them down in TOML.

    python -m simnet home-20mbit        one of simnet/stories
    python -m simnet mine.toml --json

A story is checked whole before anything runs; ConfigError lists everything that is wrong with it.
Peers are numbered from 0 in the order of the [[peers]] tables. story_run.py lives it.
"""

import tomllib
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from p2ptrain.config import Recipe
from p2ptrain.config_section import Section
from p2ptrain.config_text import describe_errors
from p2ptrain.data.shipped import RECIPES, recipe_path
from p2ptrain.errors import ConfigError
from p2ptrain.model.networks import network_of
from p2ptrain.wire.limits import (
    BATCH_MAX,
    CODEC_BLOCK,
    COMMITTEE_MAX,
    LOCAL_STEPS_MAX,
    PARAMETERS_MAX,
    ROUNDS_MAX,
    SHARD_VALUES_MAX,
)
from simnet.faults import CRASH, PARTITION
from simnet.lies import LIES

FOLDER = Path(__file__).with_name("stories")
STORY_BYTES_MAX = 1 << 16  # as a recipe: a page of text with long comments
PEERS_MAX = COMMITTEE_MAX  # one group; how more than that average together is not built yet
COUNT_MAX = 100_000  # of one table: more is a slip of the finger, 65 an honest question
FAULTS_MAX = 1000  # of each kind; more are drawn by [churn]
SIMULATED_ROUNDS_MAX = 2000  # hours of one core with many peers; the report scales to the whole run
DAY_S = 86_400.0
CODEC_NUMBERS = {"int2": 2, "int4": 4, "int8": 8}


class Work(Section):
    """[recipe]: what is trained and averaged."""

    file: str = Field(
        default="", description="a recipe file, or one that is shipped; else say values and rounds"
    )
    values: int = Field(default=0, ge=0, le=PARAMETERS_MAX, description="parameters of the model")
    codec: Literal["int8", "int4", "int2"] = Field(default="int4", description="of contributions")
    local_steps: int = Field(default=10, ge=1, le=LOCAL_STEPS_MAX, description="in a round (H)")
    batch: int = Field(default=32, ge=1, le=BATCH_MAX, description="samples in a local step")
    rounds: int = Field(default=0, ge=0, le=ROUNDS_MAX, description="in the whole run")
    optimizer: Literal["plain", "nesterov"] = Field(
        default="plain", description="of the outer step"
    )
    outer_learning_rate: float = Field(default=1.0, gt=0, le=2, description="of the outer step")
    momentum: float = Field(default=0.0, ge=0, le=0.9, description="nesterov only")
    learning_rate: float = Field(
        default=0.05, gt=0, le=10, description="of the local steps on the digits"
    )

    @model_validator(mode="after")
    def _file_or_numbers(self) -> Self:
        told = self.model_fields_set - {"file", "learning_rate"}
        if self.file and told:
            raise ValueError(f"file says the rest already: leave out {', '.join(sorted(told))}")
        if not self.file and not (self.values and self.rounds):
            raise ValueError("say file, or values and rounds")
        if self.optimizer == "plain" and self.momentum:
            raise ValueError("plain has no momentum: leave it out or set optimizer = 'nesterov'")
        return self


class Group(Section):
    """[[peers]]: peers that are alike."""

    count: int = Field(default=1, ge=1, le=COUNT_MAX, description="how many")
    uplink_mbit_s: float = Field(default=20.0, ge=0.1, le=1e5, description="Mbit/s")
    downlink_mbit_s: float = Field(default=100.0, ge=0.1, le=1e5, description="Mbit/s")
    latency_ms: float = Field(
        default=15.0, ge=0.01, le=2000, description="one way to the middle of the net"
    )
    loss_percent: float = Field(default=0.0, ge=0, le=20, description="of packets, at each end")
    samples_s: float = Field(
        default=1000.0, gt=0, le=1e9, description="training speed, samples a second"
    )
    join_s: float = Field(default=0.0, ge=0, le=DAY_S, description="0: a founding member")
    leave_s: float = Field(default=0.0, ge=0, le=DAY_S, description="asks to be let go; 0: stays")

    @model_validator(mode="after")
    def _leaves_after_it_joins(self) -> Self:
        if self.leave_s and self.leave_s <= self.join_s:
            raise ValueError("leave_s is not after join_s")
        return self


class Fault(Section):
    """[[faults]]: something that happens at a time."""

    kind: Literal["crash", "freeze", "partition"] = Field(
        description="crash, freeze, or a partition between these peers and all others"
    )
    peers: tuple[int, ...] = Field(strict=False, min_length=1, description="numbers of the peers")
    at_s: float = Field(ge=0, le=DAY_S, description="when it begins")
    for_s: float = Field(default=0.0, ge=0, le=DAY_S, description="how long; 0: a crash for ever")

    @model_validator(mode="after")
    def _only_crashes_last(self) -> Self:
        if self.kind != CRASH and not self.for_s:
            raise ValueError(f"a {self.kind} needs for_s: say when it ends")
        return self

    @property
    def end_s(self) -> float:
        """When it ends; inf: never."""
        return self.at_s + self.for_s if self.for_s else inf


class Liars(Section):
    """[[liars]]: peers that lie from the beginning."""

    peers: tuple[int, ...] = Field(strict=False, min_length=1, description="numbers of the peers")
    lie: str = Field(description="one of: " + ", ".join(LIES))

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.lie not in LIES:
            raise ValueError(f"lie = {self.lie!r} is none of: {', '.join(LIES)}")
        return self


class Churn(Section):
    """[churn]: crashes drawn from the seed."""

    percent_a_round: float = Field(
        default=0.0, ge=0, le=50, description="chance of each peer to crash as a round ends"
    )
    crashes_an_hour: float = Field(
        default=0.0, ge=0, le=3600, description="of each peer, on the clock"
    )
    away_s: float = Field(default=20.0, gt=0, le=DAY_S, description="mean time until it is back")


class Story(Section):
    """A whole story."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$", description="for people")
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="of all that is drawn")
    rounds: int = Field(
        default=30, ge=1, le=SIMULATED_ROUNDS_MAX, description="rounds that are simulated"
    )
    time_limit_s: float = Field(
        default=7200.0, gt=0, le=30 * DAY_S, description="virtual time at the most"
    )
    recipe: Work
    peers: tuple[Group, ...] = Field(strict=False, max_length=PEERS_MAX)
    faults: tuple[Fault, ...] = Field(default=(), strict=False, max_length=FAULTS_MAX)
    liars: tuple[Liars, ...] = Field(default=(), strict=False, max_length=PEERS_MAX)
    churn: Churn = Churn()

    @model_validator(mode="after")
    def _peers_are_there(self) -> Self:
        count = len(self.everyone)
        if count > PEERS_MAX:
            raise ValueError(
                f"{count} peers: one group averages {PEERS_MAX} at the most, and larger swarms are "
                f"not built yet; tell the story of {PEERS_MAX} of them"
            )
        if not self.founders:
            raise ValueError("nobody is there at the start: some [[peers]] need join_s = 0")
        named = [i for fault in self.faults for i in fault.peers]
        lying = [i for liars in self.liars for i in liars.peers]
        for i in (*named, *lying):
            if not 0 <= i < count:
                raise ValueError(f"there is no peer {i}: {count} peers are numbered from 0")
        if len(set(lying)) < len(lying):
            raise ValueError("liars: a peer tells one lie only")
        if len(lying) == count:
            raise ValueError("liars: at least one peer must be honest")
        cuts = sorted((f.at_s, f.end_s) for f in self.faults if f.kind == PARTITION)
        if any(later[0] < earlier[1] for earlier, later in pairwise(cuts)):
            raise ValueError("faults: two partitions at once; let one end before the next begins")
        return self

    @property
    def everyone(self) -> tuple[Group, ...]:
        """The table of each peer, by its number."""
        return tuple(group for group in self.peers for _ in range(group.count))

    @property
    def founders(self) -> tuple[int, ...]:
        """Who makes the roster of the founding block."""
        return tuple(i for i, g in enumerate(self.everyone) if g.join_s == 0)

    @property
    def lies(self) -> dict[int, str]:
        """Number of a peer -> its lie."""
        return {i: liars.lie for liars in self.liars for i in liars.peers}


@dataclass(frozen=True, slots=True)
class Task:
    """What the run of a story needs of its recipe.

    name          for people
    values        parameters of the model that is meant
    codec         number of the codec of contributions
    local_steps   in a round
    batch         samples in a step
    rounds        in the whole run
    shard_values  values in a shard
    norm_max      norm limit of the first rounds
    optimizer, outer_learning_rate, momentum  of the outer step
    learning_rate of the local steps on the digits
    """

    name: str
    values: int
    codec: int
    local_steps: int
    batch: int
    rounds: int
    shard_values: int
    norm_max: float
    optimizer: Literal["plain", "nesterov"]
    outer_learning_rate: float
    momentum: float
    learning_rate: float

    @property
    def padded(self) -> int:
        """Values that travel: whole blocks of the codec."""
        return -(-self.values // CODEC_BLOCK) * CODEC_BLOCK

    @property
    def shards(self) -> int:
        """Shards of a contribution."""
        return -(-self.padded // self.shard_values)


def find_story(name: str) -> Path:
    """The file of a story: a path, or the name of a bundled one. Raises ConfigError."""
    bundled = FOLDER / f"{name}.toml"
    if "/" not in name and bundled.is_file():
        return bundled
    if Path(name).is_file():
        return Path(name)
    names = ", ".join(sorted(path.stem for path in FOLDER.glob("*.toml")))
    raise ConfigError(
        f"there is no story {name}: neither a file nor a bundled one.\n"
        f"Bundled are {names}; write one of your own after them: {FOLDER}"
    )


def read_story(path: Path) -> Story:
    """Read and check a story. Raises ConfigError that lists everything that is wrong."""
    try:
        if path.stat().st_size > STORY_BYTES_MAX:
            raise ConfigError(f"{path}: longer than {STORY_BYTES_MAX} bytes; is it a story?")
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the story {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; a story is a TOML file") from None
    return story_from(text, str(path))


def story_from(text: str, source: str = "story") -> Story:
    """A story from its text. Raises ConfigError."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{source}: not valid TOML: {error}.\nCompare with a bundled story: {FOLDER}"
        ) from None
    try:
        return Story.model_validate(tree)
    except ValidationError as error:
        lines = describe_errors(Story, error.errors(include_url=False))
        raise ConfigError(f"{source} cannot be told:\n  " + "\n  ".join(lines)) from None


def task_of(work: Work, folder: Path) -> Task:
    """What a story's recipe asks for. Raises ConfigError.

    folder  where a recipe file with a relative path is looked for
    """
    if work.file:
        return _task_of_recipe(work, folder)
    return Task(
        name=f"{work.values:,} parameters in {work.codec}",
        values=work.values,
        codec=CODEC_NUMBERS[work.codec],
        local_steps=work.local_steps,
        batch=work.batch,
        rounds=work.rounds,
        shard_values=SHARD_VALUES_MAX,
        norm_max=10.0,
        optimizer=work.optimizer,
        outer_learning_rate=work.outer_learning_rate,
        momentum=work.momentum,
        learning_rate=work.learning_rate,
    )


def _task_of_recipe(work: Work, folder: Path) -> Task:
    path = recipe_path(work.file) if work.file in RECIPES else folder / work.file
    recipe = Recipe.from_file(path)
    codec = recipe.averaging.codec
    if codec not in CODEC_NUMBERS:
        raise ConfigError(
            f"{path}: stories are told in {', '.join(CODEC_NUMBERS)}, not in {codec}.\n"
            "Give values, local_steps, batch and rounds in [recipe] instead of file."
        )
    return Task(
        name=recipe.name,
        values=network_of(recipe).layout.size,
        codec=CODEC_NUMBERS[codec],
        local_steps=recipe.inner.local_steps,
        batch=recipe.inner.batch,
        rounds=recipe.rounds,
        shard_values=recipe.averaging.shard_values,
        norm_max=recipe.averaging.norm_max,
        optimizer=recipe.outer.optimizer,
        outer_learning_rate=recipe.outer.learning_rate,
        momentum=recipe.outer.momentum,
        learning_rate=work.learning_rate,
    )

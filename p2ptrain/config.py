"""The recipe: everything that all peers of a swarm must agree on, and its name.

A recipe is written as TOML, checked once when it enters, and frozen. Its canonical bytes are
one document (wire/document.py): a map from section to map from key to value with every key
present, defaults written out. The CIDv1 of these bytes is the swarm id, so whoever knows the id
can take the recipe from anyone. Comments and the order of keys in the TOML do not matter.

A recipe file may name a file of weights to start from (model.init). Founding puts those weights
into the store and their CID in the place of the path (node/founding.py): before that a recipe has
no canonical bytes, and a path never leaves this machine.

Errors are ConfigError: the founder or the user wrote something that cannot be done.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from p2ptrain.config_model import WEIGHTS_SUFFIX, ConvNetSection, MlpSection, ModelSection
from p2ptrain.config_section import Section
from p2ptrain.config_text import describe_errors
from p2ptrain.config_training import DataSection, InnerSection, Phase
from p2ptrain.errors import ConfigError
from p2ptrain.wire.cid import Cid, cid_of
from p2ptrain.wire.document import pack_document, unpack_document
from p2ptrain.wire.limits import (
    CODEC_BLOCK,
    PARAMETERS_MAX,
    PHASES_MAX,
    RECIPE_BYTES_MAX,
    ROUNDS_MAX,
    SHARD_VALUES_MAX,
    SHARDS_MAX,
    WARMUP_CODEC_NUMBER,
)
from p2ptrain.wire.peer_id import public_key_of

# Any change of a summation order, a constant or a codec that changes bits counts this up; peers
# of another number could never agree with us and are refused (DESIGN section 5).
ARITHMETIC = 2

FEW_LEVELS = ("int2", "topk")  # codecs whose error feedback does the work of outer momentum
FEW_LEVELS_WARMUP_ROUNDS = 8  # as many as have the recipe's own norm limit


def _empty_or_peer_id(text: str) -> str:
    if text:
        public_key_of(text)
    return text


class OuterSection(Section):
    """The optimiser that takes the averaged pseudo-gradient."""

    optimizer: Literal["plain", "nesterov"] = Field(
        default="plain", description="plain: the weighted mean; nesterov: with momentum"
    )
    learning_rate: float = Field(
        default=1.0, gt=0, le=2, description="plain: 1; nesterov: 0.7 is a good start"
    )
    momentum: float = Field(
        default=0.0, ge=0, le=0.9, description="nesterov: 0.5; 0.9 is unstable in short runs"
    )

    @model_validator(mode="after")
    def _plain_has_no_momentum(self) -> Self:
        if self.optimizer == "plain" and self.momentum != 0:
            raise ValueError("plain has no momentum: leave it out or set optimizer = 'nesterov'")
        return self


class AveragingSection(Section):
    """How contributions travel and are averaged."""

    codec: Literal["topk", "int2", "int4", "int8"] = Field(
        default="int4",
        description="int4 loses nothing; int8: twice the bytes; int2: half; topk: the fewest",
    )
    topk: Literal[32, 64, 128, 256, 512] = Field(
        default=128, description="codec = 'topk' only: values kept of each 4096"
    )
    warmup_rounds: int = Field(
        default=0,
        ge=0,
        le=ROUNDS_MAX,
        description="first rounds, in int8 whatever the codec; int2 and topk: 8 if left out",
    )
    shard_values: int = Field(
        default=SHARD_VALUES_MAX,
        ge=CODEC_BLOCK,
        le=SHARD_VALUES_MAX,
        multiple_of=CODEC_BLOCK,
        description="values in a shard, the unit that is sent and reduced",
    )
    norm_max: float = Field(
        default=10.0, ge=1e-6, le=1e6, description="norm limit of the first 8 rounds"
    )
    aggregation: Literal["mean", "centered-clip"] = Field(
        default="mean",
        description="mean, or centered-clip: work that is far from the others' counts less",
    )
    voter_after: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="final rounds that a peer contributes to before voting",
    )

    @model_validator(mode="before")
    @classmethod
    def _few_levels_warm_up(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("codec") in FEW_LEVELS:
            return {"warmup_rounds": FEW_LEVELS_WARMUP_ROUNDS, **given}
        return given

    @property
    def number(self) -> int:
        """What a Commit names the codec by."""
        numbers: dict[str, int] = {"int2": 2, "int4": 4, "int8": 8}
        return numbers.get(self.codec, CODEC_BLOCK + self.topk)

    def number_after(self, rounds: int) -> int:
        """What a Commit of the round after so many names its codec by."""
        return WARMUP_CODEC_NUMBER if rounds < self.warmup_rounds else self.number


class AdmissionSection(Section):
    """Who may take part."""

    mode: Literal["open"] = Field(default="open", description="open: whoever has the link")


class FounderSection(Section):
    """Who founded the swarm; written in when it is founded."""

    key: Annotated[str, AfterValidator(_empty_or_peer_id)] = Field(
        default="",
        description="peer id of the founder; leave it empty, founding writes it in",
    )


class Recipe(Section):
    """The definition of a run, the same on all peers; its canonical bytes name the swarm."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$",
        description="what people call the run: letters, digits, space, . _ -",
    )
    arithmetic: int = Field(default=ARITHMETIC, ge=1, description="rules of computation; leave it")
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="of the initial parameters")
    rounds: int = Field(ge=1, le=ROUNDS_MAX, description="rounds in the run")
    data: DataSection
    model: ModelSection
    inner: InnerSection
    outer: OuterSection = OuterSection()
    averaging: AveragingSection = AveragingSection()
    admission: AdmissionSection = AdmissionSection()
    founder: FounderSection = FounderSection()
    phases: tuple[Phase, ...] = Field(
        default=(),
        max_length=PHASES_MAX,
        strict=False,
        description="convnet: rounds on smaller pictures at the start, in [[phases]] tables",
    )

    @model_validator(mode="after")
    def _fits_the_limits(self) -> Self:
        if not isinstance(self.model, MlpSection):
            return self  # model/networks.py knows how many parameters the others have
        count = self.model.parameter_count
        largest = min(PARAMETERS_MAX, SHARDS_MAX * self.averaging.shard_values)
        if count > largest:
            raise ValueError(
                f"model.layers make {count:,} parameters; {SHARDS_MAX} shards of "
                f"averaging.shard_values = {self.averaging.shard_values:,} hold {largest:,}"
            )
        return self

    @model_validator(mode="after")
    def _few_levels_go_without_momentum(self) -> Self:
        codec = self.averaging.codec
        if codec in FEW_LEVELS and self.outer.optimizer != "plain":
            raise ValueError(
                f"averaging.codec = '{codec}' needs outer.optimizer = 'plain': its error feedback "
                "already adds up over rounds as momentum does, and both at once diverge"
            )
        return self

    @model_validator(mode="after")
    def _the_schedule_fits_the_run(self) -> Self:
        steps = self.rounds * self.inner.local_steps
        if self.inner.warmup_steps >= steps:
            raise ValueError(
                f"inner.warmup_steps = {self.inner.warmup_steps}: the run has {steps} steps "
                "(rounds x local_steps), and the learning rate must be up before its end"
            )
        return self

    @model_validator(mode="after")
    def _model_and_data_belong_together(self) -> Self:
        data = self.data
        if not isinstance(self.model, ConvNetSection):
            if self.phases:
                raise ValueError("phases: only a convnet trains on smaller pictures first")
            if data.mean or data.crop_padding or data.flip:
                raise ValueError(
                    "data.mean, deviation, crop_padding and flip: only a convnet's input has "
                    "channels and pixels"
                )
            return self
        height, width, channels = self.model.input
        if data.mean and len(data.mean) != channels:
            raise ValueError(
                f"data.mean has {len(data.mean)} numbers, model.input {channels} channels"
            )
        if self.phases and sum(phase.rounds for phase in self.phases) >= self.rounds:
            raise ValueError("phases leave no round of the run for full pictures")
        for phase in self.phases:
            if height % phase.size or width % (height // phase.size):
                raise ValueError(
                    f"phases: size = {phase.size} does not divide pictures of {height} x {width}"
                )
        return self

    @classmethod
    def from_toml(cls, text: str, source: str = "recipe") -> Self:
        """Read a recipe. Raises ConfigError that lists everything wrong, naming source."""
        if len(text.encode("utf-8")) > RECIPE_BYTES_MAX:
            raise ConfigError(f"{source}: longer than {RECIPE_BYTES_MAX} bytes; is it a recipe?")
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"{source}: not valid TOML: {error}.\n"
                "Compare with a working recipe: p2ptrain init digits"
            ) from None
        return cls._from_tree(tree, source)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a recipe file. Raises ConfigError."""
        try:
            if path.stat().st_size > RECIPE_BYTES_MAX:
                raise ConfigError(f"{path}: longer than {RECIPE_BYTES_MAX} bytes; is it a recipe?")
            text = path.read_text("utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot read the recipe {path}: {error.strerror}.\n"
                "Write a new one with: p2ptrain init digits"
            ) from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: not UTF-8 text; a recipe is a TOML file") from None
        recipe = cls.from_toml(text, str(path))
        weights = recipe.weights_path
        if weights is None:
            return recipe
        return recipe.with_init(str(path.parent / weights.expanduser()))

    @classmethod
    def from_canonical(cls, content: bytes, source: str = "recipe") -> Self:
        """Read canonical bytes. Raises ConfigError, also when they are not the canonical ones."""
        if len(content) > RECIPE_BYTES_MAX:
            raise ConfigError(f"{source}: longer than {RECIPE_BYTES_MAX} bytes")
        try:
            tree = unpack_document(content)
        except ValueError as error:
            raise ConfigError(f"{source}: not the canonical bytes of a recipe: {error}") from None
        recipe = cls._from_tree(tree, source)
        if recipe.weights_path is not None:
            raise ConfigError(f"{source}: model.init names a file; peers know weights by their CID")
        if recipe.canonical != content:
            # Such as a default left out: it would be a second name for one recipe.
            raise ConfigError(f"{source}: not in canonical form, so its swarm id is not its own")
        return recipe

    @classmethod
    def _from_tree(cls, tree: Any, source: str) -> Self:
        try:
            recipe = cls.model_validate(tree)
        except ValidationError as error:
            lines = describe_errors(cls, error.errors(include_url=False))
            raise ConfigError(f"{source} cannot be used:\n  " + "\n  ".join(lines)) from None
        _check_arithmetic(recipe.arithmetic, source)
        return recipe

    @property
    def weights_path(self) -> Path | None:
        """The file that model.init names; None if it holds a CID or nothing."""
        named = self.model.init
        return Path(named) if named.endswith(WEIGHTS_SUFFIX) else None

    def with_init(self, init: str) -> Self:
        """The same recipe with another model.init. Raises ConfigError if it is no file or CID."""
        tree = self.model_dump()
        return self._from_tree({**tree, "model": {**tree["model"], "init": init}}, "recipe")

    @property
    def canonical(self) -> bytes:
        """The bytes that the swarm id is the CID of; model.init must be a CID by now."""
        assert self.weights_path is None, "founding puts the CID of the weights in first"
        return pack_document(self.model_dump())

    @property
    def swarm_id(self) -> Cid:
        """The swarm's name; only a recipe with its founder's key in it is a swarm."""
        return cid_of(self.canonical)

    def founded_by(self, peer_id: str) -> Self:
        """The same recipe with the founder's key in it. Raises ConfigError if it names another."""
        if self.founder.key not in ("", peer_id):
            raise ConfigError(
                f"founder.key = {self.founder.key!r}: the recipe was founded by another peer.\n"
                "Join that swarm with its link, or empty founder.key to found a new one."
            )
        return self._from_tree({**self.model_dump(), "founder": {"key": peer_id}}, "recipe")


def _check_arithmetic(arithmetic: int, source: str) -> None:
    if arithmetic == ARITHMETIC:
        return
    raise ConfigError(
        f"{source}: arithmetic = {arithmetic}, but this p2ptrain computes by rules {ARITHMETIC}; "
        "peers of different rules never get equal bits.\n"
        "Get the release that knows those rules: pip install --upgrade p2ptrain"
    )

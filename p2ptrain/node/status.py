"""What a node says when it is asked how it is: a tree of plain values, the answer to `status`.

The tree is the form of `p2ptrain status --json` and of the local API; its JSON schema follows from
these classes (schema()), lies in protocol/status.schema.json and is numbered: within one number
fields are added, never changed or taken away. JSON knows no infinity, so that what has no limit,
or is not known, is null. Ages and limits are seconds, and rates are a second.

node/observed.py makes it, cli/status.py draws it.
"""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from pydantic import TypeAdapter, ValidationError

STATUS_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStatus:
    """Something that the node waits for.

    what     in words: "votes: 2 of 3"
    age_s    seconds since the wait began
    limit_s  seconds after which the node gives up or does something else; null: never
    """

    what: str
    age_s: float
    limit_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmStatus:
    """The run that the node takes part in, from its recipe.

    link    what others join it with
    rounds  in the whole run
    """

    swarm: str
    name: str
    link: str
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """One member of the roster.

    rounds  with its contribution in them
    absent  of the last rounds in a row, those without one
    """

    peer: str
    voter: bool
    rounds: int
    absent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStatus:
    """The chain of certified blocks as this node knows it.

    round           rounds up to the newest block
    height          that block's; block and state are its digests in hexadecimal
    applied_height  of the block whose state is here; null: it lies on a branch that was left
    branch_depth    BRANCH blocks in the chain; 0: the trunk
    member, voter   whether this peer is one
    members         the roster after the newest block
    """

    round: int
    height: int
    block: str
    state: str
    applied_height: int | None
    branch_depth: int
    member: bool
    voter: bool
    members: tuple[MemberStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementStatus:
    """Where the agreement on the next block stands.

    view      number of the attempt
    phase     "training", "contributions", "reducing", "votes", "outside", "alone", "finished"
    proposer  whose turn it is
    quorum    votes that certify, of so many voters
    """

    view: int
    phase: str
    proposer: str
    quorum: int
    voters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStatus:
    """The newest round that was applied here.

    loss, accuracy   on the test samples, of the state after evaluated_round; null: not finite
    included         whether our contribution is in it
    samples          behind the contributions of all
    seconds          since the round before it
    age_s            seconds since it was applied
    """

    round: int
    view: int
    loss: float | None
    accuracy: float | None
    evaluated_round: int
    contributions: int
    included: bool
    samples: int
    seconds: float
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DialStatus:
    """How it goes to reach a peer that is not connected.

    next_try_s  seconds until it is dialled again; 0: now; null: not any more
    last_error  why the last attempt failed; null: there was none
    """

    addresses: tuple[str, ...]
    next_try_s: float | None
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A peer that is connected, or that the node would like to reach.

    in_swarm      whether it named our swarm in its hello; a seeder of the data set need not
    member, voter  of the chain's roster
    connected_s   seconds connected in this run, all its connections together
    rtt_s         newest round trip of a ping; null: none yet
    quiet_s       seconds since anything came from it; null: not connected
    bytes_*       of frames, in this run
    *_bytes_s     bytes a second over the last 10 seconds
    outbox_bytes  waiting to be sent
    strikes       protocol errors; 16 of them, and it is let go
    dial          null while it is connected
    """

    peer: str
    agent: str | None
    connected: bool
    in_swarm: bool
    member: bool
    voter: bool
    connected_s: float
    rtt_s: float | None
    quiet_s: float | None
    bytes_sent: int
    bytes_received: int
    sent_bytes_s: float
    received_bytes_s: float
    outbox_bytes: int
    strikes: int
    dial: DialStatus | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SightingStatus:
    """What a peer announced of itself, whether we are connected to it or not.

    age_s          seconds since it did
    every_s        seconds after which it means to do so again
    silent         connected, and nothing has come for longer than that: it is not waited for
    state          of the block of this height, in hexadecimal; height, round: how far it is
    agrees         whether that is the state of our chain, or an earlier one of its was; null: no
                   block that we know of
    samples        trained by it in its process; samples_s: a second; local_steps: of its next round
    uplink_s       bytes, the most that it has sent in a second; null: not known
    reachable      whether somebody has made a connection to it
    """

    peer: str
    age_s: float
    every_s: float
    silent: bool
    round: int
    height: int
    state: str
    agrees: bool | None
    samples: int
    samples_s: float
    uplink_s: float | None
    local_steps: int
    reachable: bool
    agent: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncedStatus:
    """What is known from announcements.

    states     how many states of one block there are at the least, ours included: 1 is as it
               should be, more are a branch, or arithmetic that is not equal
    text       that in words
    sightings  of all other peers, sorted
    """

    states: int
    text: str
    sightings: tuple[SightingStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateStatus:
    """How fast it goes.

    rounds_s, samples_s  of the swarm, over its last rounds; null: there are fewer than two
    *_bytes_s            of all peers, over the last 10 seconds
    """

    rounds_s: float | None
    samples_s: float | None
    sent_bytes_s: float
    received_bytes_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """One process of the node.

    rss_bytes  memory that it holds; null: the process is gone
    open_fds   open files and sockets
    """

    pid: int
    rss_bytes: int | None
    open_fds: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeStatus:
    """The compute process.

    device    OpenCL device; null: it is not open yet
    process   null: there is none at the moment
    restarts  how often it had to be started again
    """

    device: str | None
    process: ProcessStatus | None
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeStatus:
    """Something that happened and that the user may want to know.

    kind  "warning", "strike" or "proof"
    """

    kind: str
    text: str
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One node at one moment. What is not known yet, or does not exist, is null or empty.

    status_schema  number of this schema
    version        of p2ptrain
    command        what was started: "join", "seed dataset", ...
    phase          what the node is about, in a few words
    compute        null: this command does not compute
    """

    status_schema: int
    version: str
    command: str
    peer: str
    addresses: tuple[str, ...]
    uptime_s: float
    phase: str
    waits: tuple[WaitStatus, ...]
    swarm: SwarmStatus | None
    chain: ChainStatus | None
    agreement: AgreementStatus | None
    last_round: RoundStatus | None
    rates: RateStatus
    peers: tuple[PeerStatus, ...]
    announced: AnnouncedStatus | None
    process: ProcessStatus
    compute: ComputeStatus | None
    notices: tuple[NoticeStatus, ...]

    @property
    def tree(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


_ADAPTER = TypeAdapter(Status)


def finite(value: object) -> float | None:
    """A figure for JSON, which has neither infinity nor NaN; None for what is no figure."""
    if isinstance(value, int | float) and isfinite(value):
        return round(float(value), 6)
    return None


def schema() -> dict[str, Any]:
    """The JSON schema of a status."""
    return _ADAPTER.json_schema(mode="serialization")


def parse_status(tree: object) -> Status:
    """Read a tree; fields that are not known here are left out. Raises ValueError."""
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        raise ValueError(f"{error.error_count()} fields are not as expected") from error

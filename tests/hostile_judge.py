"""What the notes of a watched swarm say: was anything averaged that no honest peer contributed?

Pure functions of what swarm_watch.py wrote down. For each certified round the mean of the honest
contributions in its set is computed again, as if the others had never been there: their weights and
norm limits play no part. Two distances to the mean that was really applied say what liars did:

  distance  |applied - honest| / |honest|, in float64: rounding to int8 alone gives about 0.01
  exact     whether the honest contributions alone, by the protocol's integers, give the same bits
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from swarm_watch import Note, read_notes

from p2ptrain.compress.codecs import CODECS, REDUCED_CODEC
from p2ptrain.compress.reduce import WeightedShard, reduce_shard
from p2ptrain.swarm.weights import factors, limit2_of_round
from p2ptrain.wire.digest import ZERO_DIGEST
from p2ptrain.wire.messages import Entry, Norm2
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Judged:
    """One certified round.

    distance  relative distance of the applied mean to that of the honest contributions
    exact     the same bits as from the honest contributions alone
    lies      entries that are lies about the work
    missing   honest members whose contributions are not in the set
    views     views that it took; 1 if none failed
    seconds   since the certificate before
    late_s    how long after its stated deadline it ended; 0 if before
    """

    round: int
    distance: float
    exact: bool
    lies: int
    missing: int
    views: int
    seconds: float
    late_s: float


Lies = Collection[tuple[str, int]]  # (peer, round): what that peer contributed there is a lie


def read(record: Path, lies: Lies, honest: Collection[str]) -> list[Judged]:
    """Judge every round of a record; honest: peers that keep all rules."""
    notes = list(read_notes(record))
    reduced = {note["block"]: note for note in notes if note["kind"] == "reduced"}
    certified = [note for note in notes if note["kind"] == "certified"]
    before = [None, *certified]
    return [
        judge(note, reduced[note["block"]], lies, honest, previous)
        for previous, note in zip(before, certified, strict=False)
        if note["entries"] and note["block"] in reduced
    ]


def failures(record: Path) -> list[Note]:
    """The views whose deadline passed."""
    return [note for note in read_notes(record) if note["kind"] == "failed"]


def judge(
    note: Note,
    reduced: Note,
    lies: Lies,
    honest: Collection[str],
    previous: Note | None,
) -> Judged:
    """One round: its certificate, its reduction, and the certificate before it."""
    inside = [(peer, weight, int(norm2)) for peer, weight, norm2 in note["entries"]]
    good = [entry for entry in inside if (entry[0], note["round"]) not in lies]
    shards = {peer: shards for peer, _, shards in reduced["terms"]}
    entries = [Entry(PeerId(p), ZERO_DIGEST, w, Norm2(n), ZERO_DIGEST, 1) for p, w, n in good]
    limits2 = [int(limit2) for limit2 in note["limits2"]]
    shares: tuple[int, ...] = ()
    if good:
        limit2 = limit2_of_round([n for _, _, n in good], limits2, int(note["norm_max2"]))
        shares = factors(entries, limit2)
    terms = [(share, shards[e.peer]) for share, e in zip(shares, entries, strict=True)]
    applied = values_of(REDUCED_CODEC.decode(shard) for shard in reduced["mean"])
    again = [
        reduce_shard(CODECS[reduced["codec"]], [WeightedShard(f, s[i]) for f, s in terms])
        for i in range(len(reduced["mean"]) if terms else 0)
    ]
    named = {peer for peer, _, _ in inside}
    return Judged(
        round=note["round"],
        distance=distance(applied, float_mean(reduced["codec"], terms)),
        exact=again == reduced["mean"],
        lies=len(inside) - len(good),
        missing=len({p for p in note["members"] if p in honest} - named),
        views=note["views"],
        seconds=note["at"] - previous["at"] if previous is not None else 0.0,
        late_s=note["late_s"],
    )


def values_of(shards: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Shards' values as one vector."""
    return np.concatenate([shard.astype(np.float64) for shard in shards])


def float_mean(codec: int, terms: list[tuple[int, list[bytes]]]) -> NDArray[np.float64]:
    """The mean by floating point, which knows nothing of the protocol's integers; 0 of none."""
    total = sum(factor for factor, _ in terms)
    if not total:
        return np.zeros(1)
    vectors = [factor * values_of(map(CODECS[codec].decode, shards)) for factor, shards in terms]
    mean: NDArray[np.float64] = np.sum(vectors, axis=0) / total
    return mean


def distance(applied: NDArray[np.float64], honest: NDArray[np.float64]) -> float:
    """Relative distance; infinite if there was nothing honest to average."""
    norm = sqrt(float(np.square(honest).sum()))
    return sqrt(float(np.square(applied - honest).sum())) / norm if norm else float("inf")

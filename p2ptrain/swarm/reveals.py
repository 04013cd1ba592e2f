"""A peer's hash chain: the values it reveals, one with each contribution that is certified.

The chain is fixed by its last value, the anchor, which the peer's Join names. Each reveal is the
preimage of the one before it, so a peer has no choice in what it feeds to the beacon, and nobody
else can know it early (protocol/averaging.md section 11).

    point[length] = seed      point[i] = digest("reveal", point[i + 1])      anchor = point[0]

Every REVEALS_CHECKPOINT-th point is kept; those between are hashed again when they are needed.
"""

from p2ptrain.errors import LocalProtocolError
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import REVEALS_CHECKPOINT


class Reveals:
    """A hash chain that grows from a secret seed.

    seed    32 secret bytes; the same seed gives the same chain after a restart
    length  reveals in it, at least as many as contributions will be certified
    """

    def __init__(self, seed: Digest, length: int) -> None:
        self._checkpoints = [seed]  # point[length], point[length - STEP], ...
        self._length = length
        point = seed
        for done in range(1, length + 1):
            point = digest("reveal", point)
            if done % REVEALS_CHECKPOINT == 0:
                self._checkpoints.append(point)
        self._anchor = point
        self._at = 0  # where the last anchor was found: the next one is near

    @property
    def anchor(self) -> Digest:
        """The end of the chain: what a Join names."""
        return self._anchor

    def preimage(self, anchor: Digest | None) -> Digest | None:
        """The next reveal after an anchor; None if it is not ours or the chain is used up.

        anchor None: the founder before its first contribution, who reveals its anchor.
        """
        if anchor is None:
            return self._anchor
        at = self._find(anchor)
        if at is None or at == self._length:
            return None
        self._at = at
        return self._point(at + 1)

    def _point(self, index: int) -> Digest:
        if not 0 <= index <= self._length:
            raise LocalProtocolError(f"no point {index} in a hash chain of {self._length}")
        checkpoint, rest = divmod(self._length - index, REVEALS_CHECKPOINT)
        point = self._checkpoints[checkpoint]
        for _ in range(rest):
            point = digest("reveal", point)
        return point

    def _find(self, anchor: Digest) -> int | None:
        """The index of a point: near the last one found, else anywhere."""
        for index in (self._at, self._at + 1):
            if index <= self._length and self._point(index) == anchor:
                return index
        point = self._checkpoints[0]
        for index in range(self._length, -1, -1):
            if point == anchor:
                return index
            point = digest("reveal", point)
        return None

"""What a peer may still cost us: a token bucket for rates, a pool for memory.

A bucket fills at a steady rate up to a cap, and what is used takes tokens out. Time is passed in,
in seconds of any clock that only goes forward.

A pool is memory that all peers share. Nobody may hold more of it than is free then: one peer alone
gets half of it, n equally greedy ones 1/(n+1) each, and there is always room left for whoever comes
next (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches",
1998). So the sum over all peers is bounded, and few peers still get much.
"""


class Budget:
    """A token bucket. Starts full; spend says whether the user stayed within it."""

    def __init__(self, *, rate_per_s: float, burst: float, now: float) -> None:
        """Fill at rate_per_s up to burst."""
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._filled_at = now

    def spend(self, amount: float, now: float) -> bool:
        """Take amount out; False if it was not there (then nothing is taken)."""
        filled = self._tokens + (now - self._filled_at) * self._rate
        self._tokens = min(self._burst, filled)
        self._filled_at = now
        if amount > self._tokens:
            return False
        self._tokens -= amount
        return True

    def owe(self, amount: float, now: float) -> None:
        """Take amount out although it may not be there: nothing more is spent until it is.

        For what is known only afterwards; ask first with spend(0).
        """
        self.spend(0, now)
        self._tokens -= amount


class Pool:
    """Bytes that several queues share; each says what it holds of them itself."""

    def __init__(self, bytes_max: int) -> None:
        """Share bytes_max."""
        self._bytes_max = bytes_max
        self.taken_bytes = 0

    @property
    def free_bytes(self) -> int:
        """What nobody holds; negative if some took more than they should."""
        return self._bytes_max - self.taken_bytes

    def has_room(self, held_bytes: int, more_bytes: int) -> bool:
        """Whether a queue that holds held_bytes of this may hold more_bytes as well."""
        return held_bytes + more_bytes <= self.free_bytes - more_bytes

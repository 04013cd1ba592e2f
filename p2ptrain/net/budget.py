"""A token bucket: how many bytes a peer may still send us.

It fills at a steady rate up to a cap, and every received byte takes one token out. Time is passed
in, in seconds of any clock that only goes forward.
"""


class ByteBudget:
    """Starts full. spend says whether the sender stayed within its budget."""

    def __init__(self, *, rate_bytes_per_s: float, burst_bytes: float, now: float) -> None:
        """Fill at rate_bytes_per_s up to burst_bytes."""
        self._rate = rate_bytes_per_s
        self._burst = burst_bytes
        self._tokens = burst_bytes
        self._filled_at = now

    def spend(self, amount_bytes: int, now: float) -> bool:
        """Take amount_bytes out; False if they were not there (then nothing is taken)."""
        filled = self._tokens + (now - self._filled_at) * self._rate
        self._tokens = min(self._burst, filled)
        self._filled_at = now
        if amount_bytes > self._tokens:
            return False
        self._tokens -= amount_bytes
        return True

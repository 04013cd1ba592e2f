"""Memory and open files of processes, sampled from /proc, and whether they stay flat.

A process begins by growing: kernels are built, buffers and caches filled, the first peers met. So
growth is counted from a quarter of its life to the end, between medians of a few samples each, for
single samples jump. Processes that lived for less than LIFE_S_MIN are not judged.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_S = 5.0
LIFE_S_MIN = 60.0
SAMPLES_A_MEDIAN = 5
KB = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process.

    rss_bytes  resident memory
    files      open file descriptors
    round      newest round that its peer had told of
    """

    at_s: float
    rss_bytes: int
    files: int
    round: int


@dataclass(frozen=True, slots=True)
class Growth:
    """What became of one process between a quarter of its life and its end.

    rounds  of its peer in that time
    """

    who: str
    life_s: float
    rounds: int
    rss_bytes_last: int
    rss_growth_bytes: int
    files_last: int
    files_growth: int

    @property
    def bytes_a_round(self) -> float:
        """The slope of the memory."""
        return self.rss_growth_bytes / max(self.rounds, 1)


def is_alive(process_id: int) -> bool:
    """Whether a process runs; a dead one that nobody has buried has no command line."""
    try:
        return bool(Path(f"/proc/{process_id}/cmdline").read_bytes())
    except OSError:
        return False


@dataclass
class Watch:
    """The samples of every process, by a name for people."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def look(self, who: str, process_id: int, at_s: float, newest_round: int) -> None:
        """Sample a process; one that has ended meanwhile is passed over."""
        folder = Path(f"/proc/{process_id}")
        try:
            status = (folder / "status").read_text()
            files = sum(1 for _ in (folder / "fd").iterdir())
        except OSError:
            return
        rss = [line for line in status.splitlines() if line.startswith("VmRSS")]
        if rss:  # a process that is being buried has none
            size = int(rss[0].split()[1]) * KB
            self.samples[who].append(Sample(at_s, size, files, newest_round))

    def growths(self) -> list[Growth]:
        """Of every process that lived long enough."""
        return [_growth(who, samples) for who, samples in self.samples.items() if _is_old(samples)]


def _is_old(samples: list[Sample]) -> bool:
    return samples[-1].at_s - samples[0].at_s >= LIFE_S_MIN


def _growth(who: str, samples: list[Sample]) -> Growth:
    quarter = len(samples) // 4
    early = samples[quarter : quarter + SAMPLES_A_MEDIAN]
    late = samples[-SAMPLES_A_MEDIAN:]
    return Growth(
        who,
        samples[-1].at_s - samples[0].at_s,
        late[-1].round - early[0].round,
        samples[-1].rss_bytes,
        _median(s.rss_bytes for s in late) - _median(s.rss_bytes for s in early),
        samples[-1].files,
        _median(s.files for s in late) - _median(s.files for s in early),
    )


def _median(figures: Iterable[int]) -> int:
    return int(statistics.median_low(list(figures)))

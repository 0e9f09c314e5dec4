"""What predump may use, so that it does not hurt others: arithmetic over bytes, CPUs and a clock that is passed in."""

from dataclasses import dataclass

NS_PER_S = 1_000_000_000
BURST_NS = 100_000_000  # so long may nothing be written, and be made up for


@dataclass(frozen=True, slots=True)
class Limits:
    """bytes_per_s: what may be written, 0 for no limit; cpu_share: what compressing may take of all CPUs, None for all.

    Neither holds while a target waits.
    """

    bytes_per_s: int = 0
    cpu_share: float | None = None


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """How many threads are to compress, and for which part of the time each of them."""

    threads: int
    busy_share: float

    def pause_ns(self, ran_ns: int) -> int:
        """How long a thread is to pause after it has run for so long."""
        return int(ran_ns * (1 / self.busy_share - 1))


def plan_cpu(limits: Limits, cpus: int, threads: int) -> CpuPlan:
    """As few threads as take the share of `cpus`, at most `threads`."""
    if limits.cpu_share is None:
        return CpuPlan(threads, 1.0)
    allowed = limits.cpu_share * cpus
    n_threads = min(threads, max(1, int(allowed)))
    return CpuPlan(n_threads, min(1.0, allowed / n_threads))


class RateLimit:
    """When the next bytes may be written, at a rate of `bytes_per_s`; times are of one clock, in ns."""

    def __init__(self, bytes_per_s: int, now_ns: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._paid_until_ns = now_ns

    def take(self, n_bytes: int, now_ns: int) -> int:
        """Counts bytes that are about to be written; for how many ns to wait before it."""
        begin_ns = max(self._paid_until_ns, now_ns - BURST_NS)
        self._paid_until_ns = begin_ns + n_bytes * NS_PER_S // self._bytes_per_s
        return max(0, self._paid_until_ns - now_ns)

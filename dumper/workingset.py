"""How many different pages are written in windows of time: measured tick by tick, and what that says of other times."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

MAX_TICKS = 6000  # of so many last ticks pages are remembered: the longest window
WINDOW_STEPS = (1, 2, 5)  # then ten times as much, and so on
TOLERANCE = 0.25  # a window may be so much longer or shorter than it is called: ticks may be late
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Different pages written in windows of this length, one ending at each tick.

    `window_ns` is the length it was asked for, `measured_ns` the mean of what the windows really were.
    """

    window_ns: int
    measured_ns: int
    windows: int
    pages_mean: int
    pages_max: int


class _Sums:
    def __init__(self) -> None:
        self.windows = self.measured_ns = self.pages = self.pages_max = 0


class WindowMeter:
    """Takes note of the working set of all windows that end at each tick; the first tick is where the first begin."""

    def __init__(self, interval_ns: int, longest_ns: int | None) -> None:
        """Windows of 1, 2, 5, 10, ... intervals, up to `longest_ns` and MAX_TICKS."""
        most = MAX_TICKS if longest_ns is None else min(MAX_TICKS, longest_ns // interval_ns)
        self._sums: dict[int, _Sums] = {}
        scale = 1
        while scale <= most:
            self._sums |= {step * scale * interval_ns: _Sums() for step in WINDOW_STEPS if step * scale <= most}
            scale *= 10
        self._interval_ns = interval_ns
        self._ticks_ns: list[int] = []

    def tick(self, now_ns: int, pages_of: Callable[[int], int]) -> None:
        """`pages_of(n)` are the different pages written in the last `n` ticks, up to this one."""
        ticks = self._ticks_ns
        if len(ticks) == 2 * MAX_TICKS:
            del ticks[:MAX_TICKS]
        for window_ns, sums in self._sums.items():
            if not ticks or now_ns - ticks[0] < window_ns - self._interval_ns // 2:
                break  # it would have begun before the first tick
            began = _nearest(ticks, now_ns - window_ns)
            measured_ns = now_ns - ticks[began]
            if abs(measured_ns - window_ns) <= TOLERANCE * window_ns:
                pages = pages_of(len(ticks) - began)
                sums.windows += 1
                sums.measured_ns += measured_ns
                sums.pages += pages
                sums.pages_max = max(sums.pages_max, pages)
        ticks.append(now_ns)

    def windows(self) -> list[Window]:
        """Those that were measured, shorter ones first."""
        return [
            Window(
                window_ns=window_ns,
                measured_ns=sums.measured_ns // sums.windows,
                windows=sums.windows,
                pages_mean=round(sums.pages / sums.windows),
                pages_max=sums.pages_max,
            )
            for window_ns, sums in self._sums.items()
            if sums.windows
        ]


def _nearest(ascending: Sequence[int], wanted: int) -> int:
    """The index of the item that is nearest to `wanted`."""
    above = bisect_left(ascending, wanted)
    around = [i for i in (above - 1, above) if 0 <= i < len(ascending)]
    return min(around, key=lambda i: abs(ascending[i] - wanted))


class WorkingSet:
    """Different pages written in any time, in between and beyond what was measured; at most `pages_limit`."""

    def __init__(self, windows: Sequence[Window], pages_limit: int) -> None:
        points = sorted((window.measured_ns, window.pages_mean) for window in windows)
        self._points = [(0, 0), *points]
        self._pages_limit = pages_limit

    def pages_in(self, ns: float) -> float:
        """Straight lines through nothing in no time and what was measured; the last one goes on."""
        if len(self._points) == 1:
            return 0.0
        found = 0.0
        for (from_ns, from_pages), (to_ns, to_pages) in pairwise(self._points):
            slope = max(0, to_pages - from_pages) / max(1, to_ns - from_ns)
            found = from_pages + slope * (ns - from_ns)
            if ns <= to_ns:
                break
        return min(found, float(self._pages_limit))

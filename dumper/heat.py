"""Which mappings are written most."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dumper.memory_map import Vma

MAX_VMAS = 4096  # where mappings come and go, the coolest half of them is forgotten from time to time


@dataclass(frozen=True, slots=True, kw_only=True)
class HotVma:
    """Pages written in a mapping, a page once a tick; `share` of all that were written. `path` as in /proc/PID/maps.

    `pages_distinct`: each page once (0 if its process is gone by now).
    """

    pid: int
    start_addr: int
    end_addr: int
    perms: str
    kind: str
    path: str
    pages_written: int
    pages_written_per_s: float
    pages_distinct: int
    share: float


class HeatMap:
    """Adds up pages written by mapping: one that grows stays the same, by its pid, start and path."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, int, str], int] = {}
        self._vmas: dict[tuple[int, int, str], Vma] = {}
        self.pages = 0

    def add(self, pid: int, vmas: Sequence[Vma], pages: Iterable[int]) -> None:
        """So many pages were written in each of the VMAs."""
        for vma, written in zip(vmas, pages, strict=True):
            if written:
                key = pid, vma.mapping.start_addr, vma.mapping.path
                self._pages[key] = self._pages.get(key, 0) + written
                self._vmas[key] = vma
                self.pages += written
        if len(self._pages) > MAX_VMAS:
            hot = sorted(self._pages, key=self._pages.__getitem__, reverse=True)[: MAX_VMAS // 2]
            self._pages = {key: self._pages[key] for key in hot}
            self._vmas = {key: self._vmas[key] for key in hot}

    def hottest(self, most: int, elapsed_ns: int, distinct: Callable[[int, int, int], int]) -> list[HotVma]:
        """The `most` hottest, hottest first, with rates over `elapsed_ns`.

        `distinct(pid, start_addr, end_addr)` counts the different pages that were written there.
        """
        hot = sorted(self._pages.items(), key=lambda item: item[1], reverse=True)[:most]
        return [
            HotVma(
                pid=key[0],
                start_addr=key[1],
                end_addr=self._vmas[key].mapping.end_addr,
                perms=self._vmas[key].mapping.perms,
                kind=self._vmas[key].kind.value,
                path=key[2],
                pages_written=pages,
                pages_written_per_s=rate(pages, elapsed_ns),
                pages_distinct=distinct(key[0], key[1], self._vmas[key].mapping.end_addr),
                share=round(pages / self.pages, 4),
            )
            for key, pages in hot
        ]


def rate(count: int, elapsed_ns: int) -> float:
    """So many in `elapsed_ns`, per second."""
    return round(count * 1e9 / elapsed_ns, 1) if elapsed_ns else 0.0

"""Every kind of memory, captured both ways, each for itself so that a failure names the kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import Target, page_tables_kb, poll_until, predump
from tests.matrix.ways import WAYS, assert_captured, each_way_in_turn
from tests.tally import Tally

pytestmark = pytest.mark.usefixtures("targets")

HAS_IT_S = 10.0
PAGE_TABLES_SLACK_KB = 512
GUARD_PAGES = 32
PAST_THE_END_PAGES = 1  # of a file
SECRET_PAGES = 256
FILE_SYSTEMS = ("ext4", "tmpfs", "btrfs", "xfs")


@dataclass(frozen=True)
class Kind:
    """A kind of memory and what is expected of it.

    name: as tests/targets/kinds.c has it.
    writes_on: a thread of the target changes pages through all commands, and not only through a run.
    file_system: where its file is.
    fixtures: what the machine must have.
    smaps: the field of /proc/PID/smaps which shows that the target has such memory, and the least sum of it in kB.
    skipped_pages: cannot be read, or are not there.
    unreadable: what `inspect` says of memory that cannot be read.
    is_large: its page tables must not grow by being captured.
    """

    name: str
    writes_on: bool = False
    file_system: str = ""
    fixtures: tuple[str, ...] = ()
    smaps: tuple[str, int] = ("Rss", 1)
    skipped_pages: int = 0
    unreadable: str = ""
    is_large: bool = False

    def __str__(self) -> str:
        return f"{self.name}-{self.file_system}" if self.file_system else self.name


def of_a_file(name: str, file_system: str) -> Kind:
    """A kind that maps one page more than its file has."""
    return Kind(name, file_system=file_system, skipped_pages=PAST_THE_END_PAGES)


KINDS = (
    Kind("private-anonymous"),
    Kind("moved"),
    Kind("copied-on-fork"),
    Kind("shared-anonymous"),
    Kind("heap", writes_on=True),
    Kind("stack", writes_on=True),
    Kind("growsdown", writes_on=True),
    Kind("locked", smaps=("Locked", 512)),
    Kind("transparent-huge", smaps=("AnonHugePages", 4096)),
    Kind("private-hugetlb", fixtures=("huge_pages",), smaps=("Private_Hugetlb", 4096)),
    Kind("shared-hugetlb", fixtures=("huge_pages",), smaps=("Private_Hugetlb", 4096)),
    Kind("no-access"),
    Kind("read-only"),
    Kind("write-only"),
    Kind("execute-only"),
    Kind("sealed"),
    Kind("guarded", skipped_pages=GUARD_PAGES),
    Kind("wiped-on-fork"),
    Kind("mergeable", fixtures=("ksm",), smaps=("KSM", 512)),
    *(of_a_file(name, where) for where in FILE_SYSTEMS for name in ("private-file", "shared-file")),
    *(of_a_file(name, where) for where in FILE_SYSTEMS for name in ("private-deleted-file", "shared-deleted-file")),
    Kind("private-memfd"),
    Kind("shared-memfd"),
    Kind("secret", skipped_pages=SECRET_PAGES, unreadable="memfd_secret"),
    Kind("sysv"),
    Kind("aio"),
    Kind("uring"),
    Kind("swapped-anonymous", fixtures=("swap",), smaps=("Swap", 64)),
    Kind("swapped-private-file", file_system="ext4", fixtures=("swap",), smaps=("Swap", 64), skipped_pages=1),
    Kind("swapped-shared", fixtures=("swap",), smaps=("Swap", 64)),
    Kind("reservation", is_large=True),
    Kind("many-vmas", is_large=True),
    Kind("threads"),
)


def smaps_kb(pid: int, field: str) -> int:
    """The sum over all mappings of the process."""
    text = Path(f"/proc/{pid}/smaps").read_text(errors="surrogateescape")
    return sum(map(int, re.findall(rf"^{field}: +(\d+) kB$", text, re.MULTILINE)))


def assert_has(pid: int, kind: Kind) -> None:
    """The target has memory of this kind."""
    field, least_kb = kind.smaps
    poll_until(lambda: smaps_kb(pid, field) >= least_kb, HAS_IT_S, f"{least_kb} kB of {field}")


@pytest.mark.parametrize(("kind", "way"), each_way_in_turn(KINDS))
def test_memory_is_captured(
    kind: Kind,
    way: str,
    checkpoint: Path,
    tally: Tally,
    file_system: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> None:
    for fixture in kind.fixtures:
        request.getfixturevalue(fixture)
    files = [file_system(kind.file_system) / "mapped"] if kind.file_system else []
    with Target.spawn("kinds", kind.name, *files) as target:

        def change(seed: int) -> None:
            target.command(f"change {seed}")
            if {"swap", "ksm"} & {*kind.fixtures}:  # what a round has read may be so no longer
                assert_has(target.pid, kind)

        assert_has(target.pid, kind)
        if kind.writes_on or way == "run":
            target.command("start")
        before_kb = page_tables_kb(target.pid)
        WAYS[way](target.pid, checkpoint, change)
        if kind.is_large:
            assert page_tables_kb(target.pid) - before_kb <= PAGE_TABLES_SLACK_KB
        assert_captured(target.pid, checkpoint, tally, target.check, skipped_pages=kind.skipped_pages)
        if kind.unreadable:
            assert kind.unreadable in predump("inspect", checkpoint).stdout

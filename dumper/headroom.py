"""How much memory a process may take before somebody has to give some up: its cgroups, and the machine."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dumper.proc.cgroup import UNIFIED_PREFIX, UNIFIED_ROOTS, parse_cgroups

UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class _Files:
    """Where a version of cgroups says what a group uses, and may use; the key of what can be taken back at once."""

    used: str
    limits: tuple[str, ...]
    reclaimable: str


# Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst
V2 = _Files("memory.current", ("memory.max", "memory.high"), "inactive_file")
V1 = _Files("memory.usage_in_bytes", ("memory.limit_in_bytes",), "total_inactive_file")
V1_ROOT = Path("/sys/fs/cgroup/memory")


def free_bytes(pid: int) -> int:
    """The least that is left in any cgroup above the process, or of MemAvailable: proc_meminfo(5).

    Raises OSError: ENOENT or ESRCH if the process is gone.
    """
    groups = _groups(parse_cgroups(Path(f"/proc/{pid}/cgroup").read_bytes()))
    return min([_available_bytes(), *(_left_in(group, files) for group, files in groups)])


def _available_bytes() -> int:
    with Path("/proc/meminfo").open() as lines:
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


def _groups(lines: list[str]) -> Iterator[tuple[Path, _Files]]:
    """The cgroups of a process that may limit its memory, and all above them."""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if line.startswith(UNIFIED_PREFIX):
            roots, files = [Path(root) for root in UNIFIED_ROOTS], V2
        elif "memory" in controllers.split(","):
            roots, files = [V1_ROOT], V1
        else:
            continue
        for root in roots:
            group = root / path.lstrip("/")
            while group.is_relative_to(root):
                yield group, files
                group = group.parent


def _left_in(group: Path, files: _Files) -> int:
    """One that is not mounted here, or has no memory controller, sets no limit."""
    left = UNLIMITED
    with suppress(OSError, ValueError):
        used = int((group / files.used).read_text()) - _reclaimable_bytes(group, files)
        for name in files.limits:
            with suppress(OSError, ValueError):  # it is missing, or says "max"
                left = min(left, int((group / name).read_text()) - used)
    return left


def _reclaimable_bytes(group: Path, files: _Files) -> int:
    with suppress(OSError), (group / "memory.stat").open() as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(files.reclaimable + " ")), 0)
    return 0

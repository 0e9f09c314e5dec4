"""What processes share that usually only threads do: clone(2) without CLONE_THREAD."""

from collections.abc import Sequence

from dumper.kernel.files import Shared, number_sharers
from dumper.target import Target


def find_shared(targets: Sequence[Target]) -> dict[int, dict[str, int]]:
    """By the pid of each stopped process, what it shares with one before it, and with which: kcmp(2).

    What the kernel does not tell (CONFIG_KCMP) counts as not shared.
    """
    found: dict[int, dict[str, int]] = {target.pid: {} for target in targets}
    for what in Shared if len(targets) > 1 else ():
        numbers = number_sharers([target.tid for target in targets], what)
        owners: dict[int, int] = {}
        for target in targets:
            owner_pid = owners.setdefault(numbers[target.tid], target.pid)
            if owner_pid != target.pid:
                found[target.pid][what.name.lower()] = owner_pid
    return found

"""Beginning to track the processes of a tree, which may end or call exec meanwhile."""

from collections.abc import Callable

from dumper.errors import TargetUntraceable
from dumper.events import Emit, Event, Notice
from dumper.tree import LOST_ERRORS, Member, Tree
from formats.faults import Point, reached

MAX_ATTEMPTS = 3  # when a process calls exec in the middle of one


class Attacher:
    """Begins to track members of a tree."""

    def __init__(self, tree: Tree, emit: Emit, exec_notice: Callable[[int], Event], untracked: str) -> None:
        """`exec_notice` makes what is emitted of a pid that called exec; `untracked` says what becomes of children that
        cannot be tracked.
        """
        self._tree = tree
        self._emit = emit
        self._exec_notice = exec_notice
        self._untracked = untracked

    def attach(self, member: Member) -> None:
        """Begins to track a process; of a child that cannot be tracked it is said so, and no more.

        Raises PermissionDenied, KernelFeatureMissing; TargetGone, TargetUntraceable if it is the root.
        """
        for _ in range(MAX_ATTEMPTS):
            try:
                member.attach(self._emit)
                reached(Point.ATTACHED)
                return
            except TargetUntraceable as error:
                if member is self._tree.root:
                    raise
                text = f"{error.message}; {self._untracked}"
                self._emit(
                    Notice(pid=self._tree.root.pid, subject="untracked", message=text, fields={"child": member.pid})
                )
                return
            except LOST_ERRORS:
                if not self.lost(member):
                    return
        if member is self._tree.root:
            raise never_settles(member.pid)

    def lost(self, member: Member) -> bool:
        """A process ended or called exec: whether it goes on, untracked. Raises TargetGone for the root."""
        goes_on = self._tree.lost(member)
        if goes_on:
            self._emit(self._exec_notice(member.pid))
        return goes_on


def never_settles(pid: int) -> TargetUntraceable:
    """The error for a process that calls exec again and again."""
    return TargetUntraceable(
        f"process {pid} called exec in the middle of each of {MAX_ATTEMPTS} attempts",
        hint="Try again when it has settled.",
        pid=pid,
    )

"""The files of /proc that a dump keeps: read as bytes while the process stands still, parsed later."""

import os
from dataclasses import dataclass, field

from dumper.proc.namespaces import KINDS
from dumper.target import Target
from formats.closing import Closing

PIECE_BYTES = 1 << 16
CONTENTS = (
    "coredump_filter",
    "timens_offsets",
    "cgroup",
    "personality",
    "oom_score_adj",
    "limits",
    "timers",
    "auxv",
    "environ",
    "stat",
    "status",
)
NAMESPACE_LINKS = tuple(f"ns/{kind}" for kind in KINDS)
LINKS = (*NAMESPACE_LINKS, "cwd", "root")
# Not there in a kernel built without the feature; where another one is not there, the process is gone.
OPTIONAL = {"coredump_filter", "timens_offsets", "cgroup", "timers", *NAMESPACE_LINKS}
LEADER_STAT = "stat of the leader"


@dataclass(frozen=True, slots=True)
class ProcFiles:
    """Contents and links of one process by their names in /proc/PID; an OSError in place of what was refused."""

    contents: dict[str, bytes | OSError] = field(default_factory=dict)
    links: dict[str, str | OSError] = field(default_factory=dict)

    def content(self, name: str) -> bytes:
        """What a file held. Raises OSError if it was refused."""
        content = self.contents[name]
        if isinstance(content, OSError):
            raise content
        return content

    def link(self, name: str) -> str:
        """What a link said. Raises OSError if it was refused."""
        link = self.links[name]
        if isinstance(link, OSError):
            raise link
        return link


def _content(fd: int) -> bytes:
    content = b""
    while piece := os.pread(fd, PIECE_BYTES, len(content)):
        content += piece
    return content


def _is_refusal(name: str, error: OSError) -> bool:
    return isinstance(error, PermissionError) or (isinstance(error, FileNotFoundError) and name in OPTIONAL)


class ProcReader(Closing):
    """Reads all of them. The files are opened, and read once, beforehand: what the kernel sets up then is not for the
    freeze.
    """

    def __init__(self, target: Target) -> None:
        """Raises OSError: ESRCH or ENOENT if the process is gone."""
        # Of the live thread: a leader that has ended has no memory, no working directory and no namespaces.
        self._directory_fd = os.open(f"/proc/{target.tid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fds: dict[str, int] = {}
        self._refused: dict[str, OSError] = {}
        try:
            for name in CONTENTS:
                self._open(name, name)
            # The signal that a process's parent gets is that of its leader; the other threads have none.
            if target.tid != target.pid:
                self._open(LEADER_STAT, f"/proc/{target.pid}/stat")
            self.read()
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, path: str) -> None:
        try:
            self._fds[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory_fd)
        except OSError as error:
            if not _is_refusal(name, error):
                raise
            self._refused[name] = error

    def read(self) -> ProcFiles:
        """What they hold now. Raises OSError: ESRCH or ENOENT if the process is gone."""
        files = ProcFiles(contents=dict(self._refused))
        for name in LINKS:
            try:
                files.links[name] = os.readlink(name, dir_fd=self._directory_fd)
            except OSError as error:
                if not _is_refusal(name, error):
                    raise
                files.links[name] = error
        for name, fd in self._fds.items():
            try:
                files.contents[name] = _content(fd)
            except OSError as error:
                if not _is_refusal(name, error):
                    raise
                files.contents[name] = error
        return files

    def close(self) -> None:
        """Closes them."""
        for fd in (*self._fds.values(), self._directory_fd):
            if fd >= 0:
                os.close(fd)
        self._fds.clear()
        self._directory_fd = -1

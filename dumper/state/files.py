"""The files of /proc that a dump keeps: read as bytes while the process stands still, parsed later."""

import os
from dataclasses import dataclass, field

from dumper.proc.namespaces import KINDS
from dumper.target import Target

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


def _content(path: str, directory_fd: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        content = b""
        while piece := os.read(fd, PIECE_BYTES):
            content += piece
        return content
    finally:
        os.close(fd)


def _is_refusal(name: str, error: OSError) -> bool:
    return isinstance(error, PermissionError) or (isinstance(error, FileNotFoundError) and name in OPTIONAL)


def read_files(target: Target) -> ProcFiles:
    """Reads all of them. Raises OSError: ESRCH or ENOENT if the process is gone."""
    files = ProcFiles()
    # Of the live thread: a leader that has ended has no memory, no working directory and no namespaces.
    directory_fd = os.open(f"/proc/{target.tid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in LINKS:
            try:
                files.links[name] = os.readlink(name, dir_fd=directory_fd)
            except OSError as error:
                if not _is_refusal(name, error):
                    raise
                files.links[name] = error
        for name in CONTENTS:
            try:
                files.contents[name] = _content(name, directory_fd)
            except OSError as error:
                if not _is_refusal(name, error):
                    raise
                files.contents[name] = error
        # The signal that a process's parent gets is that of its leader; the other threads have none.
        if target.tid != target.pid:
            files.contents[LEADER_STAT] = _content(f"/proc/{target.pid}/stat", directory_fd)
    finally:
        os.close(directory_fd)
    return files

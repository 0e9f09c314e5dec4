"""Files that processes need wherever they run: those that they map, and the regular files that they have open."""

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from dumper.errors import HandoverFailed
from dumper.proc import GONE_ERRORS
from dumper.proc.maps import DELETED
from formats.manifest import Manifest
from streams.messages import CONTENT_BYTES, Content
from streams.questions import MAX_FILES, Copied, Copy, Files, Found, Problem, WantedFile
from streams.sender import Sender

ANSWER_S = 300.0
_NAMED = 5  # of many files that are missing


class NeededFiles:
    """What is known of them; each is asked for once."""

    def __init__(self, sender: Sender, name: str, *, copies: bool) -> None:
        """`copies`: what is missing is sent."""
        self._sender = sender
        self._name = name
        self._copies = copies
        self._asked: set[WantedFile] = set()

    def check(self, manifest: Manifest | None, pids: Sequence[int]) -> None:
        """Asks for those that are new. Raises HandoverFailed for what the receiver lacks, and as Sender.ask."""
        mapped = [] if manifest is None else _mapped(manifest)
        opened, written = _open(pids)
        files = [one for one in dict.fromkeys([*mapped, *opened]) if one not in self._asked][:MAX_FILES]
        if not files:
            return
        found = self._sender.ask(Files(files=files), Found, ANSWER_S)
        if found is None:
            raise HandoverFailed(f"{self._name} does not say which files it has", hint="Look what it waits for.")
        left = [one for one in found.problems if 0 <= one.file < len(files)]
        if self._copies:
            left = [one for one in left if not self._copy(one, files[one.file].path, pids, written)]
        if left:
            named = ", ".join(f"{files[one.file].path} {one.what}" for one in left[:_NAMED])
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            raise HandoverFailed(
                f"the process needs files that are not at {self._name} as they are here: {named}{more}",
                hint="It goes on here, and was not frozen. Copy them; --copy-files sends what is missing, but for what "
                "is being written.",
            )
        self._asked.update(files)

    def _copy(self, problem: Problem, path: str, pids: Sequence[int], written: set[str]) -> bool:
        """Sends a file that is missing; False if it is not one to be sent."""
        if not problem.is_missing or path in written:
            return False
        with suppress(OSError):
            fd = os.open(f"/proc/{pids[0]}/root{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return self._send(problem.file, fd)
            finally:
                os.close(fd)
        return False

    def _send(self, file: int, fd: int) -> bool:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return False
        digest, n_bytes = hashlib.sha256(), 0
        while content := os.pread(fd, CONTENT_BYTES, n_bytes):
            digest.update(content)
            self._sender.send(Content(file, n_bytes, content))
            n_bytes += len(content)
        copy = Copy(
            file=file,
            size_bytes=n_bytes,
            sha256=digest.hexdigest(),
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
        )
        return self._sender.ask(copy, Copied, ANSWER_S) is not None


def _mapped(manifest: Manifest) -> list[WantedFile]:
    return [
        WantedFile(path=one.path, size_bytes=one.size_bytes, mtime_ns=one.mtime_ns, build_id=one.build_id)
        for process in manifest.processes
        for one in process.mapped_files
        if one.path.startswith("/") and not one.path.endswith(DELETED)
    ]


def _open(pids: Iterable[int]) -> tuple[list[WantedFile], set[str]]:
    """Regular files that are open, and those of them that may be written: of these only the name is asked for."""
    opened: list[WantedFile] = []
    written: set[str] = set()
    for pid in pids:
        with suppress(*GONE_ERRORS):
            for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - of many processes
                with suppress(*GONE_ERRORS):
                    entry = Path(f"/proc/{pid}/fd/{fd}")
                    status, path = entry.stat(), str(entry.readlink())
                    if not stat.S_ISREG(status.st_mode) or not path.startswith("/") or path.endswith(DELETED):
                        continue
                    opened.append(WantedFile(path=path))
                    if entry.lstat().st_mode & stat.S_IWUSR:  # proc_pid_fd(5)
                        written.add(path)
    return opened, written

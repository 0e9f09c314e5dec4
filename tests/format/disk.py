"""What a disk may hold after a power cut, for a recorded sequence of system calls.

The model promises no more than fsync(2) does. Of a file, what was written before its last fsync is there; what was
written since may be there, or not, or in parts: a beginning of it, a file of the right length full of zeros, or later
writes without earlier ones. Of a directory, the names made, renamed and removed before its last fsync are; of those
since, each by itself may be or not, whatever became of others and of what they name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, count, product
from math import prod
from pathlib import Path
from random import Random

import pytest

from formats import files

Tree = dict[str, bytes | None]
"""What is below a directory by its path: a file's content, None for a directory."""

Names = dict[str, int | None]
"""Names of a directory and the inodes they have now, None for a name that is gone."""

_ROOT = 0
_CALLS = ("open", "writev", "pwrite", "ftruncate", "fsync", "mkdir")
_RENAMES = ("rename", "replace")
_REMOVALS = ("unlink", "rmdir")
_SUBSETS = 64  # of the changes of one directory


@dataclass(frozen=True)
class Write:
    """Bytes at an offset of a file; `content` of None cuts the file there or extends it with zeros."""

    inode: int
    offset: int
    content: bytes | None


@dataclass(frozen=True)
class Rename:
    """Names of a directory that change in one step, and in the same step those of others.

    The step is durable after an fsync of the directory `inode`.
    """

    inode: int
    names: Names = field(hash=False)
    others: dict[int, Names] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Sync:
    """fsync(2) of a file or directory."""

    inode: int


@dataclass(frozen=True)
class Mark:
    """Something that the test wants to know of a cut: nothing reaches the disk."""

    text: str


Step = Write | Rename | Sync | Mark
Change = Write | Rename


class Disk:
    """Records what is done below `root`; what is there already is on the disk."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Step] = []
        self._root = root
        self._numbers = count(_ROOT + 1)
        self._inodes = {root: _ROOT}
        self._files: dict[int, bytes] = {}
        self._directories: dict[int, Names] = {_ROOT: {}}
        for path in sorted(root.rglob("*")):
            number = self._inodes[path] = next(self._numbers)
            self._directories[self._inodes[path.parent]][path.name] = number
            if path.is_dir():
                self._directories[number] = {}
            else:
                self._files[number] = path.read_bytes()
        self._record(monkeypatch)

    def mark(self, text: str) -> None:
        """Note how far the writer is."""
        self.steps.append(Mark(text))

    # ---- recording ----

    def _record(self, patch: pytest.MonkeyPatch) -> None:
        real = {name: getattr(os, name) for name in (*_CALLS, *_RENAMES, *_REMOVALS)}

        def opened(path: os.PathLike[str] | str, flags: int, *args: object, **options: object) -> int:
            fd: int = real["open"](path, flags, *args, **options)
            if flags & os.O_CREAT:
                self._make(Path(path))
            return fd

        def writev(fd: int, buffers: list[memoryview]) -> int:
            offset = os.lseek(fd, 0, os.SEEK_CUR)
            written: int = real["writev"](fd, buffers)
            self.steps.append(Write(self._inode_of(fd), offset, b"".join(buffers)[:written]))
            return written

        def pwrite(fd: int, content: memoryview, offset: int) -> int:
            written: int = real["pwrite"](fd, content, offset)
            self.steps.append(Write(self._inode_of(fd), offset, bytes(content[:written])))
            return written

        def ftruncate(fd: int, size: int) -> None:
            real["ftruncate"](fd, size)
            self.steps.append(Write(self._inode_of(fd), size, None))

        def fsync(fd: int) -> None:
            real["fsync"](fd)
            self.steps.append(Sync(self._inode_of(fd)))

        def mkdir(path: Path, mode: int) -> None:
            real["mkdir"](path, mode)
            self._directories[self._make(path)] = {}

        def renamed(call: str) -> Callable[[Path, Path], None]:
            def rename(source: Path, target: Path) -> None:
                real[call](source, target)
                self._move({source: Path(target)})

            return rename

        def removed(call: str) -> Callable[[Path], None]:
            def remove(path: Path) -> None:
                real[call](path)
                del self._inodes[path]
                self.steps.append(Rename(self._inodes[path.parent], {path.name: None}))

            return remove

        fakes = (opened, writev, pwrite, ftruncate, fsync, mkdir)
        for name, fake in zip(_CALLS, fakes, strict=True):
            patch.setattr(os, name, fake)

        def exchange(first: Path, second: Path) -> None:
            real_exchange(first, second)
            self._move({second: first, first: second})

        real_exchange = files.exchange
        patch.setattr(files, "exchange", exchange)
        for name in _RENAMES:
            patch.setattr(os, name, renamed(name))
        for name in _REMOVALS:
            patch.setattr(os, name, removed(name))

    def _move(self, moves: dict[Path, Path]) -> None:
        """What is at each path is at another one now; all in one step, of the directory that the first one was in."""
        changed: dict[int, Names] = {}
        for source in moves:
            changed.setdefault(self._inodes[source.parent], {})[source.name] = None
        for source, target in moves.items():
            changed.setdefault(self._inodes[target.parent], {})[target.name] = self._inodes[source]
        first = self._inodes[next(iter(moves)).parent]
        self.steps.append(Rename(first, changed.pop(first), changed))
        inodes = {}
        for path, number in self._inodes.items():
            source = next((one for one in moves if path.is_relative_to(one)), None)
            if source is not None:
                inodes[moves[source] / path.relative_to(source)] = number
            elif path not in moves.values():  # or it is replaced
                inodes[path] = number
        self._inodes = inodes

    def _make(self, path: Path) -> int:
        number = self._inodes[path] = next(self._numbers)
        self.steps.append(Rename(self._inodes[path.parent], {path.name: number}))
        return number

    def _inode_of(self, fd: int) -> int:
        return self._inodes[Path(f"/proc/self/fd/{fd}").readlink()]

    # ---- what the disk may hold ----

    def after_cut(self, n_steps: int, random: Random, most: int) -> Iterator[Tree]:
        """What is below `root` if the power fails after so many steps: all possibilities, or `most` of them."""
        changes: dict[int, list[Change]] = {}
        durable: dict[int, int] = {}
        for step in self.steps[:n_steps]:
            if isinstance(step, Sync):
                durable[step.inode] = len(changes.get(step.inode, []))
            elif not isinstance(step, Mark):
                changes.setdefault(step.inode, []).append(step)
        choices: list[list[list[Change]]] = []
        for inode, made in changes.items():
            n_durable = durable.get(inode, 0)
            choices.append([[*made[:n_durable], *rest] for rest in _leftovers(made[n_durable:], random)])
        if prod(map(len, choices)) <= most:
            chosen: Iterator[tuple[list[Change], ...]] = product(*choices)
        else:
            chosen = (tuple(random.choice(options) for options in choices) for _ in range(most))
        position = {id(step): n for n, step in enumerate(self.steps)}
        for lists in chosen:
            made = [change for changed in lists for change in changed]
            # Names of several directories change in one step: what came first, comes first.
            yield self._tree(sorted(made, key=lambda change: position.get(id(change), 0)))

    def _tree(self, changes: list[Change]) -> Tree:
        contents: dict[int, bytearray] = {number: bytearray(content) for number, content in self._files.items()}
        directories = {number: dict(names) for number, names in self._directories.items()}
        for change in changes:
            if isinstance(change, Rename):
                for inode, names in {change.inode: change.names, **change.others}.items():
                    directories.setdefault(inode, {}).update(names)
                continue
            content = contents.setdefault(change.inode, bytearray())
            content.extend(bytes(max(0, change.offset - len(content))))
            if change.content is None:
                del content[change.offset :]
            else:
                content[change.offset : change.offset + len(change.content)] = change.content
        tree: Tree = {}
        stack = [("", _ROOT)]
        while stack:
            prefix, number = stack.pop()
            for name, inner in directories.get(number, {}).items():
                if inner is None:
                    continue
                is_directory = inner in self._directories
                tree[prefix + name] = None if is_directory else bytes(contents.get(inner, b""))
                if is_directory:
                    stack.append((f"{prefix}{name}/", inner))
        return tree


def _leftovers(pending: list[Change], random: Random) -> list[list[Change]]:
    """What of the changes of one file or directory since its last fsync may be on the disk."""
    if not pending:
        return [[]]
    if all(isinstance(change, Rename) for change in pending):
        subsets = [list(some) for n in range(len(pending) + 1) for some in combinations(pending, n)]
        return subsets if len(subsets) <= _SUBSETS else [subsets[0], subsets[-1], *random.sample(subsets, _SUBSETS)]
    end = max(change.offset + len(change.content or b"") for change in pending if isinstance(change, Write))
    first = next(change for change in pending if isinstance(change, Write))
    part = first.content or b""
    begun = Write(first.inode, first.offset, part[: random.randint(0, len(part))])
    return [[], [begun], [Write(first.inode, end, None)], pending[1:], pending]


def write_tree(directory: Path, tree: Tree) -> None:
    """Make it so, in a new directory."""
    directory.mkdir()
    for name in sorted(tree):
        content = tree[name]
        if content is None:
            (directory / name).mkdir()
        else:
            (directory / name).write_bytes(content)

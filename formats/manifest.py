"""The manifest of a round: what was dumped, from whom, on top of which parent, in which files.

The file is one JSON document whose beginning has a fixed form, so that it can be checked before
it is parsed:

    {"predump":{"schema":1,"sha256":"<64 hex digits>"},"manifest":BODY}\\n

`sha256` is over the bytes of BODY. docs/format.md explains every key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from formats import manifestrules
from formats.errors import ImageCorrupt, ImageVersionUnsupported
from formats.files import open_regular, read_exactly
from formats.layout import MANIFEST_MAX_BYTES, PAGE_BYTES, SCHEMA_VERSION
from formats.records import decode_record, encode_record

ANONYMOUS_VMA_KINDS = frozenset({"anon", "heap", "stack"})
"""Kinds of VMA whose absent pages are zeros."""

_SCHEMA_PREFIX = re.compile(rb'\{"predump":\{"schema":([0-9]{1,9})[,}]')
_PREFIX = re.compile(rb'\{"predump":\{"schema":[0-9]{1,9},"sha256":"(?P<sha256>[0-9a-f]{64})"\},"manifest":')
_SUFFIX = b"}\n"


class RoundKind(StrEnum):
    """How a round was taken: while the target ran, or while it was frozen."""

    PRE_DUMP = "pre-dump"
    DUMP = "dump"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of the round: its size, and digests of all its bytes and of its seek table."""

    name: str
    stored_bytes: int
    sha256: str
    seek_table_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The round that PARENT runs refer to; `sha256` is over the bytes of its manifest file."""

    round: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine of the target, as of the dump."""

    boot_id: str
    hostname: str
    kernel_release: str
    machine: str
    page_bytes: int = PAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Vma:
    """A mapping of the target, `[start_addr, end_addr)`, as in /proc/PID/maps.

    `perms` is like "rw-p", `device` like "08:01", `path` is decoded with surrogateescape. `kind`
    is anon, heap, stack, file, shmem, hugetlb, device or special. `note` says what a reader of
    the round should know about it ("" if nothing).
    """

    start_addr: int
    end_addr: int
    perms: str
    offset_bytes: int
    device: str
    inode: int
    path: str
    kind: str
    tracked: bool
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0
    note: str = ""

    @property
    def n_pages(self) -> int:
        """Pages of the address range, populated or not."""
        return (self.end_addr - self.start_addr) // PAGE_BYTES

    @property
    def pages_absent(self) -> int:
        """Pages without a run in this round."""
        return self.n_pages - self.pages_data - self.pages_zero - self.pages_parent

    @property
    def is_shared(self) -> bool:
        """Whether it was mapped MAP_SHARED."""
        return "s" in self.perms


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A range `[start_addr, end_addr)` that could not be read, and why."""

    start_addr: int
    end_addr: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread's state: user_regs_struct by name, NT_PRFPREG and NT_X86_XSTATE as they are."""

    tid: int
    name: str
    registers: dict[str, int] = field(default_factory=dict)
    fpregs: bytes = b""
    xstate: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the round. `start_time_ticks` is field 22 of /proc/PID/stat.

    `exe` is the path of its executable, `exe_build_id` hex digits or "". The page counts are
    totals of this round.
    """

    pid: int
    start_time_ticks: int
    ppid: int
    name: str
    exe: str
    exe_build_id: str
    cmdline: list[str]
    vmas: list[Vma]
    threads: list[Thread]
    unreadable: list[Gap]
    pages_present: int = 0
    pages_written: int = 0
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What the round cost; units are in the names, pages and bytes are sums over processes."""

    pages_present: int = 0
    pages_written: int = 0
    pages_data: int = 0
    pages_zero: int = 0
    pages_parent: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0
    duration_ns: int = 0
    frozen_ns: int = 0
    attach_stop_ns: int = 0
    scan_ns: int = 0
    copy_ns: int = 0
    micro_rounds: int = 0
    pages_copied_frozen: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A round. `round` counts from 1, `created_ns` is CLOCK_REALTIME.

    `checkpoint_id` (32 hex digits) is the same in all rounds of a checkpoint. `features` are
    what a reader must know to read the round correctly. A `full` round has no PARENT runs, and
    `full_reason` says why. `files` is filled in by RoundWriter.
    """

    checkpoint_id: str
    round: int
    kind: RoundKind
    created_ns: int
    tool_version: str
    features: list[str] = field(default_factory=list)
    parent: Parent | None = None
    full: bool
    full_reason: str = ""
    streamed_while_frozen: bool = False
    host: Host
    root_pid: int
    processes: list[Process]
    stats: Stats
    files: list[FileEntry] = field(default_factory=list)

    def file(self, name: str) -> FileEntry | None:
        """The entry of a file of this round, None if the round has no such file."""
        return next((entry for entry in self.files if entry.name == name), None)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest file; raises ValueError for a manifest no reader would accept."""
    problem = manifestrules.find_problem(manifest)
    if problem:
        raise ValueError(f"manifest of round {manifest.round}: {problem}")
    # Only ASCII goes out: surrogates from undecodable paths survive as escapes.
    text = json.dumps(encode_record(manifest), indent=1, ensure_ascii=True, allow_nan=False)
    body = text.encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    prefix = f'{{"predump":{{"schema":{SCHEMA_VERSION},"sha256":"{digest}"}},"manifest":'
    return prefix.encode("ascii") + body + _SUFFIX


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Check and parse the bytes of a manifest file; `name` stands for it in messages.

    Raises ImageCorrupt, and ImageVersionUnsupported if a newer schema or feature is in use.
    """
    manifest = decode_record(Manifest, _parse(_checked_body(data, name), name), name)
    unknown = sorted(set(manifest.features) - manifestrules.KNOWN_FEATURES)
    if unknown:
        raise ImageVersionUnsupported(
            f"{name} needs features that this version lacks: {', '.join(unknown)[:200]}.",
            path=name,
        )
    problem = manifestrules.find_problem(manifest)
    if problem:
        raise ImageCorrupt(f"{name} is damaged: {problem}.", path=name)
    return manifest


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read a manifest file; returns it with the SHA-256 (hex) of the file's bytes.

    Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
    """
    fd, size_bytes = open_regular(path)
    try:
        if size_bytes > MANIFEST_MAX_BYTES:
            raise ImageCorrupt(
                f"{path} is damaged: {size_bytes} bytes are too many for a manifest.",
                path=str(path),
            )
        data = read_exactly(fd, size_bytes, 0, path)
    finally:
        os.close(fd)
    return decode_manifest(data, str(path)), hashlib.sha256(data).hexdigest()


def _checked_body(data: bytes, name: str) -> bytes:
    """The bytes of BODY, once version and digest are right."""
    schema = _SCHEMA_PREFIX.match(data)
    if schema is None:
        raise ImageCorrupt(f"{name} is damaged: it does not begin like a manifest.", path=name)
    version = int(schema[1])
    if version != SCHEMA_VERSION:
        raise ImageVersionUnsupported(
            f"{name} has schema version {version}; this version of predump reads {SCHEMA_VERSION}.",
            path=name,
            schema=version,
        )
    prefix = _PREFIX.match(data)
    if prefix is None or not data.endswith(_SUFFIX):
        raise ImageCorrupt(f"{name} is damaged: it is cut off or overwritten.", path=name)
    body = data[prefix.end() : -len(_SUFFIX)]
    if hashlib.sha256(body).hexdigest().encode("ascii") != prefix["sha256"]:
        raise ImageCorrupt(f"{name} is damaged: its checksum does not match.", path=name)
    return body


def _parse(body: bytes, name: str) -> object:
    try:
        value: object = json.loads(body.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ImageCorrupt(f"{name} is damaged: it is not ASCII JSON.", path=name) from error
    return value

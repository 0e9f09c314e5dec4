"""A directory of CRIU's images as a manifest of our own: inventory.img, stats-dump, and the processes."""

from __future__ import annotations

from collections.abc import Sequence

from formats.criu.framing import Magic, damage, read_message
from formats.criu.images_pb2 import DumpStats, Inventory
from formats.criu.images_pb2 import Stats as StatsMessage
from formats.criu.names import INVENTORY_NAME, STATS_NAME, TREE_NAME
from formats.criu.reading.directories import ImageDirectory
from formats.criu.reading.tree import ProcessReader
from formats.errors import ImageVersionUnsupported, StorageError
from formats.layout import PAGE_BYTES
from formats.manifest import Host, Manifest, MemoryObject, Parent, Process, RoundKind, Stats

_VERSION = 2
_NS_PER_US = 1000


def manifest_of(levels: Sequence[ImageDirectory], *, is_full: bool, root_pid: int | None) -> Manifest:
    """The manifest of the first of `levels`, behind which come those that it builds on.

    It `is_full` if it builds on no other, be that missing; `root_pid` is the root process of a pre-dump, which
    does not tell itself. Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
    """
    directory = levels[0]
    _check_version(directory)
    reader = ProcessReader(levels)
    has_tree = TREE_NAME in directory.names
    processes = list(reader.dumped() if has_tree else reader.running())
    if not processes:
        raise damage(directory.path / TREE_NAME, "has no process")
    if has_tree or root_pid not in {process.pid for process in processes}:
        root_pid = processes[0].pid
    return Manifest(
        checkpoint_id="",
        round=directory.number,
        kind=RoundKind.DUMP if any(process.state for process in processes) else RoundKind.PRE_DUMP,
        created_ns=_created_ns(directory),
        tool_version="",
        parent=Parent(round=directory.number - 1, sha256="") if len(levels) > 1 else None,
        full=is_full,
        host=Host(boot_id="", hostname="", kernel_release="", machine=reader.machine),
        root_pid=root_pid,
        processes=processes,
        objects=reader.shared.objects,
        open_files=reader.open_files(processes),
        stats=_stats(directory, processes, reader.shared.objects),
    )


def _check_version(directory: ImageDirectory) -> None:
    if INVENTORY_NAME not in directory.names:
        return  # one that others build on needs none
    version = read_message(directory.path / INVENTORY_NAME, Magic.INVENTORY, Inventory).image_version
    if version != _VERSION:
        raise ImageVersionUnsupported(
            f"{directory.path} has images of version {version}, not {_VERSION}.",
            hint=f"Take a new dump with a CRIU that writes version {_VERSION}.",
            path=str(directory.path),
        )


def _created_ns(directory: ImageDirectory) -> int:
    """When the inventory was written: no image says it."""
    path = directory.path / INVENTORY_NAME if INVENTORY_NAME in directory.names else directory.path
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise StorageError.from_os_error("read", path, error) from error


def _stats(directory: ImageDirectory, processes: Sequence[Process], objects: Sequence[MemoryObject]) -> Stats:
    """What the round cost, by CRIU's own account."""
    told = DumpStats()
    if STATS_NAME in directory.names:
        told = read_message(directory.path / STATS_NAME, Magic.STATS, StatsMessage).dump
    data_pages = sum(process.pages_data for process in processes) + sum(held.pages_data for held in objects)
    return Stats(
        pages_present=sum(process.pages_present for process in processes),
        pages_written=sum(process.pages_written for process in processes),
        pages_data=data_pages,
        pages_parent=sum(process.pages_parent for process in processes),
        raw_bytes=data_pages * PAGE_BYTES,
        stored_bytes=directory.stored_bytes(),
        frozen_ns=(told.stop_us + told.frozen_us) * _NS_PER_US,
        stop_ns=told.stop_us * _NS_PER_US,
        copy_ns=told.copy_us * _NS_PER_US,
    )

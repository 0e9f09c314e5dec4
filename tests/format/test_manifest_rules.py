"""Manifests that contradict themselves are neither written nor read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from formats.errors import ImageCorrupt
from formats.manifest import Gap, Manifest, PageRange, Parent, RoundKind
from formats.manifestfile import decode_manifest, encode_manifest
from formats.threadstate import Thread
from tests.format.images import PID, object_vma, vma_of
from tests.format.samples import (
    CREDENTIALS,
    DUMP,
    DUMP_PROCESS,
    FILES,
    MANIFEST,
    OBJECT,
    OPEN_FILE,
    PROCESS,
    SHA256,
    SIGNAL,
    STATE,
    THREAD,
    ZOMBIE,
)


def with_vmas(*ranges: tuple[int, int], perms: str = "rw-p", pages_data: int = 0) -> Manifest:
    vmas = [
        replace(vma_of(0, 1), start_addr=start, end_addr=end, perms=perms, pages_data=pages_data)
        for start, end in ranges
    ]
    return replace(MANIFEST, processes=[replace(PROCESS, vmas=vmas)])


def with_files(*names: str) -> Manifest:
    return replace(MANIFEST, files=[replace(FILES[0], name=name) for name in names])


def with_process(**changes: object) -> Manifest:
    return replace(DUMP, processes=[replace(DUMP_PROCESS, **changes), ZOMBIE])


def with_zombie(**changes: object) -> Manifest:
    return replace(DUMP, processes=[DUMP_PROCESS, replace(ZOMBIE, **changes)])


def with_object(**changes: object) -> Manifest:
    return replace(DUMP, objects=[replace(OBJECT, **changes)])


def with_object_vma(**changes: object) -> Manifest:
    return with_process(vmas=[replace(object_vma(0, 8, 1), **changes)])


def with_state(**changes: object) -> Manifest:
    return with_process(state=replace(STATE, **changes))


def with_thread(**changes: object) -> Manifest:
    return with_process(threads=[replace(THREAD, **changes)])


def with_dump_files(*names: str) -> Manifest:
    return replace(DUMP, files=[*DUMP.files[:2], *(replace(FILES[0], name=name) for name in names)])


GAP = Gap(start_addr=0, end_addr=4096, reason="")

UNSOUND: dict[str, Callable[[], Manifest]] = {
    "checkpoint id": lambda: replace(MANIFEST, checkpoint_id="../etc"),
    "round 0": lambda: replace(MANIFEST, round=0),
    "own parent": lambda: replace(MANIFEST, parent=Parent(round=3, sha256=SHA256)),
    "later parent": lambda: replace(MANIFEST, parent=Parent(round=4, sha256=SHA256)),
    "parent 0": lambda: replace(MANIFEST, parent=Parent(round=0, sha256=SHA256)),
    "parent digest": lambda: replace(MANIFEST, parent=Parent(round=2, sha256="")),
    "no parent": lambda: replace(MANIFEST, parent=None),
    "page size": lambda: replace(MANIFEST, host=replace(MANIFEST.host, page_bytes=16384)),
    "process twice": lambda: replace(MANIFEST, processes=[PROCESS, PROCESS]),
    "no process": lambda: replace(MANIFEST, processes=[]),
    "root not in it": lambda: replace(MANIFEST, root_pid=PID + 1),
    "pid 0": lambda: replace(MANIFEST, root_pid=0, processes=[replace(PROCESS, pid=0)], files=[]),
    "thread twice": lambda: replace(MANIFEST, processes=[replace(PROCESS, threads=PROCESS.threads * 2)]),
    "negative count": lambda: replace(MANIFEST, processes=[replace(PROCESS, pages_zero=-1)]),
    "negative stats": lambda: replace(MANIFEST, stats=replace(MANIFEST.stats, pages_data=-1)),
    "empty VMA": lambda: with_vmas((4096, 4096)),
    "backward VMA": lambda: with_vmas((8192, 4096)),
    "unaligned VMA": lambda: with_vmas((4096, 8193)),
    "VMA beyond 64 bits": lambda: with_vmas(((1 << 64) - 4096, 1 << 64), (1 << 64, 2 << 64)),
    "negative VMA": lambda: with_vmas((-4096, 4096)),
    "overlapping VMAs": lambda: with_vmas((0, 8192), (4096, 12288)),
    "VMAs out of order": lambda: with_vmas((8192, 12288), (0, 4096)),
    "perms": lambda: with_vmas((0, 4096), perms="wr-p"),
    "negative VMA count": lambda: with_vmas((0, 4096), pages_data=-1),
    "unaligned gap": lambda: replace(
        MANIFEST,
        processes=[replace(PROCESS, unreadable=[Gap(start_addr=1, end_addr=4096, reason="")])],
    ),
    "path as a name": lambda: with_files("../pages-42.zst", "pagemap-42.zst"),
    "absolute name": lambda: with_files("/pages-42.zst", "pagemap-42.zst"),
    "name with a newline": lambda: with_files("pages-42.zst\n", "pagemap-42.zst"),
    "name with a zero": lambda: with_files("pages-042.zst", "pagemap-042.zst"),
    "file twice": lambda: with_files("pages-42.zst", "pagemap-42.zst", "pages-42.zst"),
    "half a pair": lambda: with_files("pages-42.zst"),
    "file of nobody": lambda: with_files("pages-43.zst", "pagemap-43.zst"),
    "file digest": lambda: replace(MANIFEST, files=[replace(FILES[0], sha256="x"), FILES[1]]),
    "file size": lambda: replace(MANIFEST, files=[replace(FILES[0], stored_bytes=-1), FILES[1]]),
    "objects of a pre-dump": lambda: replace(DUMP, kind=RoundKind.PRE_DUMP),
    "object id twice": lambda: replace(DUMP, objects=[OBJECT, replace(OBJECT, inode=5)]),
    "object twice": lambda: replace(DUMP, objects=[OBJECT, replace(OBJECT, id=2)]),
    "negative object id": lambda: replace(DUMP, objects=[OBJECT, replace(OBJECT, id=-1, inode=5)]),
    "huge object id": lambda: replace(DUMP, objects=[OBJECT, replace(OBJECT, id=1 << 31, inode=5)]),
    "object kind": lambda: with_object(kind="socket"),
    "negative object size": lambda: with_object(size_bytes=-1),
    "huge object size": lambda: with_object(size_bytes=1 << 63),
    "negative object count": lambda: with_object(pages_data=-1),
    "more pages than the object": lambda: with_object(pages_data=4, pages_zero=5),
    "unaligned gap of an object": lambda: with_object(unreadable=[replace(GAP, end_addr=1)]),
    "object of no file": lambda: with_dump_files("pages-object-2.zst", "pagemap-object-2.zst"),
    "half a pair of an object": lambda: with_dump_files("pagemap-object-1.zst"),
    "object name with a zero": lambda: with_dump_files("pages-object-01.zst", "pagemap-object-01.zst"),
    "object file twice": lambda: with_dump_files(*["pages-object-1.zst", "pagemap-object-1.zst"] * 2),
    "VMA of no object": lambda: with_object_vma(object=2),
    "unaligned offset into an object": lambda: with_object_vma(offset_bytes=100),
    "negative offset into an object": lambda: with_object_vma(offset_bytes=-4096),
    "overflowing offset into an object": lambda: with_object_vma(offset_bytes=(1 << 63) - 4096),
    "offset of 2^64 into an object": lambda: with_object_vma(offset_bytes=(1 << 64) - 4096),
    "files of a zombie": lambda: with_dump_files("pages-43.zst", "pagemap-43.zst"),
    "memory of a zombie": lambda: with_zombie(vmas=[vma_of(0, 1)]),
    "thread of a zombie": lambda: with_zombie(threads=[Thread(tid=7, name="")]),
    "state of a zombie": lambda: with_zombie(state=STATE),
    "unaligned guard": lambda: with_process(guards=[PageRange(start_addr=0, end_addr=1)]),
    "empty guard": lambda: with_process(guards=[PageRange(start_addr=4096, end_addr=4096)]),
    "open file twice": lambda: replace(DUMP, open_files=[OPEN_FILE, OPEN_FILE]),
    "negative open file": lambda: replace(DUMP, open_files=[OPEN_FILE, replace(OPEN_FILE, id=-1)]),
    "open file of no object": lambda: replace(DUMP, open_files=[replace(OPEN_FILE, object=2)]),
    "descriptor of no file": lambda: replace(DUMP, open_files=[]),
    "descriptor twice": lambda: with_state(descriptors=STATE.descriptors * 2),
    "negative descriptor": lambda: with_state(descriptors=[replace(STATE.descriptors[0], fd=-1)]),
    "pipe twice": lambda: replace(DUMP, pipes=DUMP.pipes * 2),
    "pipe capacity": lambda: replace(DUMP, pipes=[replace(DUMP.pipes[0], capacity_bytes=-1)]),
    "ended twice": lambda: replace(DUMP, ended=DUMP.ended * 2),
    "timer twice": lambda: with_state(posix_timers=STATE.posix_timers * 2),
    "interval timer twice": lambda: with_state(interval_timers=STATE.interval_timers * 2),
    "disposition twice": lambda: with_state(dispositions=STATE.dispositions * 2),
    "limit twice": lambda: with_state(limits=STATE.limits * 2),
    "siginfo of the process": lambda: with_state(pending=[replace(SIGNAL, siginfo=b"")]),
    "siginfo of a thread": lambda: with_thread(pending=[replace(SIGNAL, siginfo=bytes(129))]),
    "credentials": lambda: with_state(credentials=replace(CREDENTIALS, uids=[0])),
    "credentials of a thread": lambda: with_thread(credentials=replace(CREDENTIALS, gids=[])),
    "arguments": lambda: with_thread(system_call=replace(THREAD.system_call, arguments=[0])),
    "filter past the end": lambda: with_thread(seccomp_filters=[0, 1]),
    "negative filter": lambda: with_thread(seccomp_filters=[-1]),
    "filter without state": lambda: with_process(state=None),
}


def test_a_vma_may_reach_behind_its_object() -> None:
    for size_bytes in (0, 1, (1 << 63) - 1):
        manifest = with_object(size_bytes=size_bytes)
        assert decode_manifest(encode_manifest(manifest), "m") == manifest
    manifest = with_object_vma(offset_bytes=(1 << 63) - 8 * 4096)
    assert decode_manifest(encode_manifest(manifest), "m") == manifest


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_manifest_is_neither_written_nor_read(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = UNSOUND[case]()
    with pytest.raises(ValueError, match="manifest of round"):
        encode_manifest(manifest)
    with monkeypatch.context() as patch:
        patch.setattr("formats.manifestrules.find_problem", lambda _manifest: None)
        data = encode_manifest(manifest)
    with pytest.raises(ImageCorrupt) as caught:
        decode_manifest(data, "m.json")
    assert caught.value.message.startswith("m.json is damaged: ")


def test_a_process_without_memory_needs_no_files() -> None:
    manifest = replace(MANIFEST, files=[])
    assert decode_manifest(encode_manifest(manifest), "m") == manifest


def test_a_vma_in_the_upper_half_is_fine() -> None:
    manifest = with_vmas((0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000))
    assert decode_manifest(encode_manifest(manifest), "m") == manifest

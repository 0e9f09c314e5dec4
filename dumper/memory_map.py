"""What each VMA is, and how its pages are looked at: the policy between /proc/PID/maps and a scan."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dumper import filesystems
from dumper.kernel.pages import Span, SpanFlag
from dumper.proc.maps import DELETED, Mapping


class VmaKind(StrEnum):
    """As the manifest names it."""

    ANON = "anon"
    HEAP = "heap"
    STACK = "stack"
    FILE = "file"
    SHMEM = "shmem"
    HUGETLB = "hugetlb"
    DEVICE = "device"
    SPECIAL = "special"


@dataclass(frozen=True, slots=True)
class Vma:
    """A mapping and what is known about it.

    tracked: its writes are reported; unreadable: why its bytes cannot be captured, "" if they can;
    note: what a reader of the checkpoint should know.
    """

    mapping: Mapping
    kind: VmaKind
    tracked: bool = False
    unreadable: str = ""
    note: str = ""


# Kernel data that every process gets anew; reading it from outside is refused.
KERNEL_DATA = ("[vvar]", "[vvar_vclock]", "[vsyscall]")
# Mappings that cannot be scanned or tracked, but hold readable bytes.
READABLE_SPECIAL = ("[vdso]", "[uprobes]")
# Names below /dev that are memory: shared anonymous memory, POSIX shared memory, the usual hugetlbfs mount.
MEMORY_UNDER_DEV = ("/dev/zero", "/dev/shm/", "/dev/hugepages/")
READABLE_RINGS = ("anon_inode:[io_uring]", "anon_inode:[perf_event]", "/[aio]")


class Classifier:
    """Tells the kind of each mapping of one target."""

    def __init__(self, pid: int) -> None:
        self._shmem = filesystems.shmem_devices(pid)
        self._hugetlb = filesystems.hugetlb_devices(pid)

    def kind(self, mapping: Mapping) -> VmaKind:
        """What it is, from its name, device and inode."""
        path = mapping.path
        if path == "[heap]":
            return VmaKind.HEAP
        if path == "[stack]":
            return VmaKind.STACK
        if path in KERNEL_DATA or path in READABLE_SPECIAL or path.startswith(READABLE_RINGS):
            return VmaKind.SPECIAL
        if not mapping.has_file:
            return VmaKind.ANON
        if path.startswith(("/dev/", "anon_inode:", "/secretmem")) and not path.startswith(MEMORY_UNDER_DEV):
            return VmaKind.DEVICE
        if mapping.device in self._hugetlb:
            return VmaKind.HUGETLB
        return VmaKind.SHMEM if mapping.device in self._shmem else VmaKind.FILE

    def vma(self, mapping: Mapping, register_errno: int | None) -> Vma:
        """The mapping with what UFFDIO_REGISTER said of it: 0, an errno, or None if it was not tried."""
        kind = self.kind(mapping)
        unreadable = note = ""
        if mapping.path in KERNEL_DATA:
            note = "kernel data, made anew for every process"
        elif kind is VmaKind.DEVICE:
            unreadable = "secret memory (memfd_secret)" if mapping.path.startswith("/secretmem") else "device mapping"
        return Vma(mapping, kind, register_errno == 0, unreadable, note)


def is_trackable(mapping: Mapping, kind: VmaKind) -> bool:
    """Whether registering the VMA is worth trying: writes to shared memory through other mappings go unreported."""
    return not mapping.is_shared and kind not in (VmaKind.SPECIAL, VmaKind.DEVICE)


def has_only_copy(vma: Vma) -> bool:
    """Whether the mapped file's content is nowhere else: a file of tmpfs, or one without a name."""
    if vma.kind is VmaKind.HUGETLB:
        return vma.mapping.is_shared
    return vma.kind is VmaKind.SHMEM or (vma.kind is VmaKind.FILE and vma.mapping.path.endswith(DELETED))


def is_object(vma: Vma) -> bool:
    """Whether what the VMA maps is dumped as a memory object, once for all who map it."""
    is_file = vma.kind in (VmaKind.FILE, VmaKind.SHMEM, VmaKind.HUGETLB)
    return is_file and (vma.mapping.is_shared or has_only_copy(vma))


def _content_flags(vma: Vma) -> SpanFlag:
    if vma.mapping.is_shared:
        return SpanFlag.SHARED
    return SpanFlag.FILE if vma.mapping.has_file else SpanFlag.NONE


def _merged(spans: Sequence[Span], *, over_gaps: bool) -> list[Span]:
    """Neighbours that are looked at alike become one span. What did not change says nothing of a gap."""
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if (
            last
            and last.flags == span.flags
            and not span.flags & SpanFlag.WHOLE
            and ((over_gaps and not span.flags & SpanFlag.CHANGES) or last.end_addr == span.start_addr)
        ):
            merged[-1] = Span(last.start_addr, span.end_addr, last.flags)
        else:
            merged.append(span)
    return merged


def spans_while_running(vmas: Sequence[Vma]) -> list[Span]:
    """What a round looks at while the target runs: all tracked memory. The rest comes in full with the dump.

    A span never runs over a gap: something might be mapped there meanwhile.
    """
    spans = [Span(v.mapping.start_addr, v.mapping.end_addr, _content_flags(v)) for v in vmas if v.tracked]
    return _merged(spans, over_gaps=False)


def spans_while_frozen(vmas: Sequence[Vma], objects: Container[Mapping], *, only_changes: bool) -> list[Span]:
    """What the dump looks at: everything, or, with `only_changes`, what changed of tracked anonymous memory.

    `objects` are the mappings whose file is dumped as a memory object: of shared ones nothing is left to look at, of
    private ones what was copied on write. Without an object, writes to shared memory through other mappings and
    descriptors go unreported, so that what the page tables hold of it is taken in full.
    """
    spans: list[Span] = []
    alike: list[Span] = []  # since the last VMA that must not be scanned
    for vma in vmas:
        mapping = vma.mapping
        has_object = mapping in objects
        if vma.unreadable or mapping.path in KERNEL_DATA or (has_object and mapping.is_shared):
            spans += _merged(alike, over_gaps=True)
            alike = []
            continue
        flags = _content_flags(vma)
        if vma.kind is VmaKind.SPECIAL:
            flags = SpanFlag.WHOLE
        elif not has_object and is_object(vma):
            flags |= SpanFlag.UNSEEN
        elif only_changes and vma.tracked and not mapping.has_file:
            flags |= SpanFlag.CHANGES
        alike.append(Span(mapping.start_addr, mapping.end_addr, flags))
    return spans + _merged(alike, over_gaps=True)

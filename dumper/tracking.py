"""Write tracking of one target: register its VMAs, hand out what is tracked, let go of it again."""

import errno
import os
from collections.abc import Callable

from dumper.errors import TargetUntraceable
from dumper.kernel import uffd
from dumper.kernel.pages import Span, SpanTable
from dumper.memory_map import Classifier, Vma, is_trackable
from dumper.proc import GONE_ERRORS
from dumper.proc.maps import Mapping, MapsParser, read_maps, without_overlaps
from dumper.target import Target, gone
from formats.faults import Point, reached

END_S = 1.0  # from the end of one thread to that of the process


class TrackingLostError(Exception):
    """The memory is out of reach: the target called exec, exited, or its main thread ended."""


class AddressSpace:
    """The VMAs of a target, read again and again; what did not change costs little."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._parser = MapsParser()
        self._classifier = Classifier(target.tid)
        self._vmas: dict[Mapping, Vma] = {}
        self._text = b""
        self._registered: tuple[list[Mapping], list[int]] | None = None  # at the last read, with what came of it

    def read(self, register: Callable[[list[Mapping]], list[int]] | None = None) -> list[Vma]:
        """Reads the VMAs, in order; `register` returns an errno (0: success) for each mapping it is given.

        Without `register`, what is known of a mapping stays and new ones count as not tracked.

        Raises TargetGone, TrackingLostError.
        """
        text = self._read_text()
        if text == self._text and (register is None or self._is_registered_alike(register)):
            return list(self._vmas.values())
        mappings = self._parser.parse(text)
        errors: dict[Mapping, int] = {}
        self._registered = None
        if register is not None:  # it runs
            mappings = without_overlaps(mappings)
            wanted = [m for m in mappings if is_trackable(m, self._classifier.kind(m))]
            self._registered = wanted, register(wanted)
            errors = dict(zip(*self._registered, strict=True))
        known = {} if register is not None else self._vmas
        self._vmas = {m: known.get(m) or self._classifier.vma(m, errors.get(m)) for m in mappings}
        self._text = text
        return list(self._vmas.values())

    def _is_registered_alike(self, register: Callable[[list[Mapping]], list[int]]) -> bool:
        """Registers what was registered at the last read; whether the same came of it."""
        if self._registered is None:
            return False
        wanted, errors = self._registered
        return register(wanted) == errors

    @property
    def vmas(self) -> list[Vma]:
        """As of the last read."""
        return list(self._vmas.values())

    def has_changed(self) -> bool:
        """Whether the mappings differ from those of the last read. Raises TargetGone, TrackingLostError."""
        return self._read_text() != self._text

    def _read_text(self) -> bytes:
        """Raises TargetGone, TrackingLostError."""
        try:
            text = read_maps(self._target.tid)
        except GONE_ERRORS:
            raise gone(self._target.pid) from None
        if not text:  # its thread has let go of the memory: others will in a moment, or have it and go on
            if self._target.ends_within(END_S):
                raise gone(self._target.pid)
            raise TrackingLostError
        return text


class Tracker:
    """A userfaultfd of the target, and the VMAs registered with it."""

    def __init__(self, target: Target, space: AddressSpace, fd: int) -> None:
        """`fd` is owned from now on; closing its last copy anywhere ends the tracking."""
        self._target = target
        self._space = space
        self.fd = fd
        self._mappings: list[Mapping] = []
        self._table = SpanTable([])  # of these

    def refresh(self) -> list[Vma]:
        """Registers every VMA, new ones and those that were mapped again at the same place, and returns all.

        Raises:
            TrackingLostError: after an exec or the exit of the target.
            TargetUntraceable: another userfaultfd has some of its memory.
        """
        return self._space.read(self._register)

    def _register(self, mappings: list[Mapping]) -> list[int]:
        if mappings is not self._mappings:
            self._mappings, self._table = mappings, SpanTable([Span(m.start_addr, m.end_addr) for m in mappings])
        errors = uffd.register(self.fd, self._target.pagemap_fd, self._table)
        reached(Point.REGISTERED)
        for mapping, error in zip(mappings, errors, strict=True):
            if error == errno.ENOMEM:
                raise TrackingLostError
            if error == errno.EBUSY:
                raise TargetUntraceable(
                    f"memory of process {self._target.pid} at {mapping.start_addr:#x} is under another userfaultfd",
                    hint="The process or another tool uses userfaultfd: end that use first. Or another process of the "
                    "tree has the same memory (clone with CLONE_VM): dump them with --no-pre-dump.",
                    pid=self._target.pid,
                )
        return errors

    def drop(self) -> None:
        """Lifts all protection, in small steps that do not hold the target up, and closes the userfaultfd."""
        tracked = [v.mapping for v in self._space.vmas if v.tracked]
        uffd.unregister(self.fd, SpanTable([Span(m.start_addr, m.end_addr) for m in tracked]))
        self.close()

    def close(self) -> None:
        """Closes this copy of the userfaultfd; a keeper's copy keeps the tracking alive."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

"""A checkpoint at a glance: figures of its rounds, whether it is whole as far as that is cheap, what was written where.

Of each round the manifest is read, in outline, and of its files the size and the seek table. `formats.check` reads
everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from analysis.written import WrittenPages
from formats.check import Finding, Severity
from formats.errors import ImageCorrupt, ParentMissing, PredumpError
from formats.images import Images, Outline
from formats.layout import round_name
from formats.manifest import Manifest, Process, RoundKind, Stats
from formats.outline import ManifestOutline

_FINDINGS_MAX = 100
_REASON_MAX = 1000


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """What a round says of itself as a whole; `full_reason` is its beginning if it is endless."""

    number: int
    kind: RoundKind
    created_ns: int
    full: bool
    full_reason: str
    streamed_while_frozen: bool
    stats: Stats

    @staticmethod
    def of(manifest: Manifest | ManifestOutline) -> RoundFigures:
        """Those of a round, of which nothing else is held."""
        return RoundFigures(
            number=manifest.round,
            kind=manifest.kind,
            created_ns=manifest.created_ns,
            full=manifest.full,
            full_reason=manifest.full_reason[:_REASON_MAX],
            streamed_while_frozen=manifest.streamed_while_frozen,
            stats=manifest.stats,
        )


@dataclass(slots=True)
class Survey:
    """What was found. `rounds` ascend; those that cannot be read are among the findings only.

    `findings` are the first of `n_findings`, all of them errors; `files` were looked at. `written` is about mappings
    of the process that was asked for.
    """

    written: WrittenPages
    rounds: list[RoundFigures] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    n_findings: int = 0
    files: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found to be wrong."""
        return not self.n_findings

    @property
    def exit_code(self) -> int:
        """That of the first finding, 0 if there is none."""
        return self.findings[0].exit_code if self.findings else 0


def survey(images: Images, process: Process) -> Survey:
    """Look at every round once; what is wrong is reported, not raised.

    Memory is bounded by one manifest at a time, and a few figures of each round.
    """
    surveyor = _Surveyor(images, process)
    surveyor.run()
    return surveyor.survey


class _Surveyor:
    def __init__(self, images: Images, process: Process) -> None:
        self.survey = Survey(WrittenPages(process))
        self._images = images
        self._checkpoint_id = ""
        self._wanted: dict[int, list[tuple[int, str]]] = {}  # by parent: which rounds need it, and by what digest

    def run(self) -> None:
        # The last first: what a round must be is known before it is read, and no digest is held for long.
        for number in reversed(self._images.numbers):
            children = self._wanted.pop(number, [])
            with self._collect(number):
                outline = self._images.outline(number)
                self._check_place(outline, children)
                self._add(outline)
        for number, children in sorted(self._wanted.items()):
            for child, _ in children:
                self._report(child, ParentMissing(f"{self._path(child)} needs round {number}, which is not there."))
        self.survey.rounds.reverse()

    def _add(self, outline: Outline) -> None:
        manifest = outline.manifest
        self.survey.rounds.append(RoundFigures.of(manifest))
        self.survey.written.add(manifest)
        self.survey.files += len(manifest.files)
        for problem in outline.file_problems():
            self._report(outline.number, problem)

    def _check_place(self, outline: Outline, children: list[tuple[int, str]]) -> None:
        """Whether a round is one of this checkpoint, and the one that others were taken on top of."""
        manifest = outline.manifest
        self._checkpoint_id = self._checkpoint_id or manifest.checkpoint_id
        if manifest.checkpoint_id != self._checkpoint_id:
            self._report(outline.number, ImageCorrupt(f"{outline.path} belongs to another checkpoint."))
        for child, sha256 in children:
            if not outline.is_known_as(sha256):
                problem = f"needs another round {outline.number} than the one that is there"
                self._report(child, ImageCorrupt(f"{self._path(child)} {problem}."))
        if manifest.parent is not None and not manifest.full:
            self._wanted.setdefault(manifest.parent.round, []).append((outline.number, manifest.parent.sha256))

    def _path(self, number: int) -> Path:
        return self._images.path / round_name(number)

    @contextmanager
    def _collect(self, number: int) -> Iterator[None]:
        """Turn an error into a finding and go on behind the block."""
        try:
            yield
        except PredumpError as error:
            self._report(number, error)

    def _report(self, number: int, error: PredumpError) -> None:
        self.survey.n_findings += 1
        if len(self.survey.findings) < _FINDINGS_MAX:
            path = str(error.fields.get("path", self._path(number)))
            self.survey.findings.append(Finding(Severity.ERROR, error.exit_code, number, path, error.message))

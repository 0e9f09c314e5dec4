"""What was found out before a restore: all of it at once, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from restorer.errors import CannotRestore, NotTrusted

_MAX_NAMED = 5


class Subject(StrEnum):
    """What a problem is about."""

    IMAGE = "image"
    OWNER = "owner"
    PATH = "path"
    FILE = "file"
    ID = "id"
    KERNEL = "kernel"
    PRIVILEGE = "privilege"
    PROCESSOR = "processor"
    MEMORY = "memory"
    NETWORK = "network"
    SURROUNDINGS = "surroundings"


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence on what is wrong, one on what to do; `stops` says whether there is no restore with it."""

    subject: Subject
    message: str
    hint: str = ""
    stops: bool = True


@dataclass(slots=True)
class Findings:
    """Of one round; `is_trusted` is false where nothing was looked at but whose image it is."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    is_trusted: bool = True

    def add(self, found: Iterable[Problem]) -> None:
        """Each thing once."""
        for one in found:
            into = self.problems if one.stops else self.warnings
            if one not in into:
                into.append(one)

    @property
    def exit_code(self) -> int:
        """What it comes to: 0 if nothing stops the restore."""
        return self._error.exit_code if self.problems else 0

    @property
    def _error(self) -> type[CannotRestore | NotTrusted]:
        return CannotRestore if self.is_trusted else NotTrusted

    def demand(self) -> None:
        """Raises NotTrusted or CannotRestore if something stops the restore."""
        if not self.problems:
            return
        named = " ".join(one.message for one in self.problems[:_MAX_NAMED])
        more = f" And {len(self.problems) - _MAX_NAMED} more." if len(self.problems) > _MAX_NAMED else ""
        hints = list(dict.fromkeys(one.hint for one in self.problems if one.hint))
        hint = hints[0] if len(hints) == 1 else "'predump restore PATH --check' says what to do about each."
        raise self._error(f"{named}{more}", hint=hint, problems=len(self.problems))

"""What a capture lacks, and why, gathered while records are made."""

import copy
import os
from collections.abc import Callable
from typing import Self, TypeVar

from formats.manifest import Missing

Value = TypeVar("Value")


class Notes:
    """A list of what is missing, each thing once."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def copy(self) -> Self:
        """The same notes, to be added to."""
        return copy.deepcopy(self)

    def add(self, what: str, reason: str) -> None:
        """Notes it; the first reason stays."""
        self._reasons.setdefault(what, reason)

    def attempt(self, what: str, make: Callable[[], Value], otherwise: Value) -> Value:
        """What `make` returns; `otherwise`, and a note, where it was refused or is not understood."""
        try:
            return make()
        except OSError as error:
            self.add(what, f"could not be read: {os.strerror(error.errno or 0)}")
        except (ValueError, KeyError) as error:
            self.add(what, f"was not understood: {error}")
        return otherwise

    def missing(self) -> list[Missing]:
        """All of it, in the order it was noted."""
        return [Missing(what=what, reason=reason) for what, reason in self._reasons.items()]

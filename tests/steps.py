"""Something that happens at a chosen step of the engine, which runs in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


def before(owner: type | ModuleType, step: str, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Does it when that step begins for the first time."""
    original = getattr(owner, step)
    to_do = [action]

    def step_after_it(*arguments: object, **named: object) -> object:
        if to_do:
            to_do.pop()()
        return original(*arguments, **named)

    monkeypatch.setattr(owner, step, step_after_it)

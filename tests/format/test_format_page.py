"""docs/format.md is complete: it has every key and every word that a manifest may hold."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from enum import StrEnum
from pathlib import Path

from formats.layout import SCHEMA_VERSION
from formats.manifest import OBJECT_KINDS, Manifest

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def words_of(hint: object) -> set[str]:
    """Keys and enumerated values of a type hint and of all that it refers to."""
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {member.value for member in hint}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return set(hints).union(*map(words_of, hints.values()))
    arguments = typing.get_args(hint) if not isinstance(hint, types.NoneType) else ()
    return set().union(*map(words_of, arguments))


def test_the_page_has_every_key_and_word() -> None:
    words = words_of(Manifest) | OBJECT_KINDS
    assert {"checkpoint_id", "abort_addr", "queue", "pidfd", "pre-dump", "memfd"} <= words
    assert sorted(words - set(re.findall(r"`([\w-]+)`", PAGE))) == []


def test_the_page_is_of_this_schema() -> None:
    assert PAGE.count(f"Schema version {SCHEMA_VERSION}.") == 1
    assert f'{{"predump":{{"schema":{SCHEMA_VERSION},"sha256":' in PAGE

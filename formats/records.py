"""Dataclasses to JSON values and back, strictly, driven by the type hints of the classes.

Supported hints: int, str, bool, float, bytes (base64), StrEnum, dataclasses, list[T],
dict[str, T] and T | None. A key that the class does not know is ignored, one that is missing
takes the field's default if it has one.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from formats.errors import ImageCorrupt

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_INT_MIN = -(1 << 63)
_INT_MAX = (1 << 64) - 1
_PLAIN = frozenset({int, str, bool, float, types.NoneType})
"""Types whose values are JSON as they are."""
_ABSENT = object()
_BATCH = 256  # items of a list that become text at once

_Decoder = Callable[[object], object]


class _MismatchError(Exception):
    """A value that its type hint forbids; the place is built while the error travels up."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.place = ""

    def inside(self, outer: str) -> _MismatchError:
        self.place = outer + self.place
        return self


def encode_record(record: DataclassInstance) -> dict[str, Json]:
    """The JSON object for a dataclass, keys in the order of its fields."""
    return {name: encode_value(getattr(record, name)) for name in _names(type(record))}


def record_text(record: DataclassInstance) -> Iterator[str]:
    """The JSON text of `encode_record` in pieces, none of which grows with the length of a list in it."""
    opening = "{"
    for name in _names(type(record)):
        yield f'{opening}"{name}": '
        yield from _text(getattr(record, name))
        opening = ", "
    yield "}"


def decode_record(record_type: type[Record], value: object, name: str) -> Record:
    """The dataclass for a parsed JSON value, whose lists are used up.

    Raises ImageCorrupt that names the file (`name`) and the place in the JSON document.
    """
    try:
        record = _decoder(record_type)(value)
    except _MismatchError as mismatch:
        raise ImageCorrupt(
            f"{name} is damaged: {mismatch.place.lstrip('.') or 'the document'} {mismatch.problem}.",
            path=name,
        ) from mismatch
    assert isinstance(record, record_type)
    return record


def _text(value: object) -> Iterator[str]:
    if not _is_long(value):
        yield json.dumps(encode_value(value))
    elif isinstance(value, list):
        yield from _list_text(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from record_text(value)


def _list_text(items: list[object]) -> Iterator[str]:
    opening = "["
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        if not any(map(_is_long, batch)):
            yield opening + json.dumps([encode_value(item) for item in batch])[1:-1]
            opening = ", "
            continue
        for item in batch:
            yield opening
            yield from _text(item)
            opening = ", "
    yield "]"


def _is_long(value: object) -> bool:
    """Whether a list in it, at whatever depth of records, has more items than one piece of text takes."""
    if isinstance(value, list):
        return len(value) > _BATCH or any(map(_is_long, value))
    if value.__class__ in _PLAIN or not dataclasses.is_dataclass(value):
        return False
    return any(_is_long(getattr(value, name)) for name in _names(value.__class__))


@cache
def _names(record_type: type[DataclassInstance]) -> tuple[str, ...]:
    """The names of a dataclass's fields, in their order."""
    return tuple(field.name for field in dataclasses.fields(record_type))


def encode_value(value: object) -> Json:
    """The JSON value for a field of a record; bytes become base64."""
    if value.__class__ in _PLAIN:
        return typing.cast(Json, value)
    match value:
        case StrEnum():
            return value.value
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case list():
            return [encode_value(item) for item in value]
        case dict():
            return {key: encode_value(item) for key, item in value.items()}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return encode_record(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


@cache
def _decoder(hint: object) -> _Decoder:
    """The function that checks and converts values of one type hint."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is list:
        return _list_decoder(_decoder(arguments[0]))
    if origin is dict:
        return _dict_decoder(_decoder(arguments[1]))
    if origin is types.UnionType:
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return _optional_decoder(_decoder(inner))
    if isinstance(hint, type):
        if dataclasses.is_dataclass(hint):
            return _dataclass_decoder(hint)
        if issubclass(hint, StrEnum):
            return _enum_decoder(hint)
        if hint in _SCALARS:
            return _SCALARS[hint]
    raise TypeError(f"no JSON form for {hint}")


def _decode_int(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _MismatchError("is not an integer")
    if not _INT_MIN <= value <= _INT_MAX:
        raise _MismatchError("is an integer of more than 64 bits")
    return value


def _decode_float(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _MismatchError("is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _MismatchError("is not a finite number")
    return number


def _decode_bool(value: object) -> object:
    if not isinstance(value, bool):
        raise _MismatchError("is neither true nor false")
    return value


def _decode_str(value: object) -> object:
    if not isinstance(value, str):
        raise _MismatchError("is not a string")
    return value


def _decode_bytes(value: object) -> object:
    if not isinstance(value, str):
        raise _MismatchError("is not a string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _MismatchError("is not base64") from error


_SCALARS: Mapping[type, _Decoder] = {
    int: _decode_int,
    float: _decode_float,
    bool: _decode_bool,
    str: _decode_str,
    bytes: _decode_bytes,
}


def _optional_decoder(inner: _Decoder) -> _Decoder:
    return lambda value: None if value is None else inner(value)


def _list_decoder(inner: _Decoder) -> _Decoder:
    def decode(value: object) -> object:
        if not isinstance(value, list):
            raise _MismatchError("is not a list")
        items: list[object] = []
        try:
            # A loop, not a comprehension: its progress tells the place of a mismatch.
            for index, item in enumerate(value):
                items.append(inner(item))
                value[index] = None  # a manifest may be large: not in memory in both forms at once
        except _MismatchError as mismatch:
            raise mismatch.inside(f"[{len(items)}]") from None
        return items

    return decode


def _dict_decoder(inner: _Decoder) -> _Decoder:
    def decode(value: object) -> object:
        if not isinstance(value, dict):
            raise _MismatchError("is not an object")
        items: dict[object, object] = {}
        for key, item in value.items():
            try:
                items[key] = inner(item)
            except _MismatchError as mismatch:
                raise mismatch.inside(f".{key}") from None
        return items

    return decode


def _enum_decoder(enum_type: type[StrEnum]) -> _Decoder:
    members = {member.value: member for member in enum_type}

    def decode(value: object) -> object:
        if isinstance(value, str) and value in members:
            return members[value]
        raise _MismatchError(f"is none of: {', '.join(members)}")

    return decode


def _dataclass_decoder(record_type: type[DataclassInstance]) -> _Decoder:
    hints = typing.get_type_hints(record_type)
    fields = dataclasses.fields(record_type)
    decoders = [(field.name, hints[field.name], _decoder(hints[field.name])) for field in fields]
    required = {
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def decode(value: object) -> object:
        if not isinstance(value, dict):
            raise _MismatchError("is not an object")
        values: dict[str, object] = {}
        for name, hint, decoder in decoders:
            item = value.get(name, _ABSENT)
            # A manifest has a million values, and most need no decoder: its call would be what they cost.
            if item.__class__ is hint and (hint is str or (hint is int and _INT_MIN <= item <= _INT_MAX)):
                values[name] = item
                continue
            try:
                if item is not _ABSENT:
                    values[name] = decoder(item)
                elif name in required:
                    raise _MismatchError("is missing")
            except _MismatchError as mismatch:
                raise mismatch.inside(f".{name}") from None
        return record_type(**values)

    return decode

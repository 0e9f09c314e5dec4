"""The codec between dataclasses and JSON values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.errors import ImageCorrupt
from formats.records import decode_record, encode_record, record_text


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


@dataclass(frozen=True)
class Inner:
    number: int
    data: bytes


@dataclass(frozen=True)
class Outer:
    text: str
    flag: bool
    ratio: float
    colour: Colour
    maybe: Inner | None
    items: list[Inner]
    table: dict[str, int]
    later: list[str] = field(default_factory=list)


INNERS = st.builds(Inner, st.integers(-(2**63), 2**64 - 1), st.binary())
OUTERS = st.builds(
    Outer,
    st.text(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(Colour),
    st.none() | INNERS,
    st.lists(INNERS),
    st.dictionaries(st.text(), st.integers(0, 2**64 - 1)),
    st.lists(st.text()),
)
SAMPLE = Outer("t", True, 0.5, Colour.RED, Inner(1, b"\0"), [Inner(2, b"x")], {"rip": 2**64 - 1})


def sample_object() -> dict[str, object]:
    return dict(encode_record(SAMPLE))


@given(OUTERS)
def test_records_survive_json(record: Outer) -> None:
    value = json.loads(json.dumps(encode_record(record)))
    assert decode_record(Outer, value, "f") == record


@given(OUTERS)
def test_the_text_of_a_record_is_that_of_its_object(record: Outer) -> None:
    assert "".join(record_text(record)) == json.dumps(encode_record(record))


@dataclass(frozen=True)
class Nested:
    outers: list[Outer]
    last: Outer | None = None


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 1000])
def test_the_text_of_long_lists_comes_in_short_pieces(n: int) -> None:
    long = replace(SAMPLE, items=[Inner(number, b"x") for number in range(n)], later=["t"] * n)
    for record in (long, Nested([SAMPLE] * n, long), Nested([SAMPLE, long, SAMPLE])):
        pieces = list(record_text(record))
        text = json.dumps(encode_record(record))
        assert "".join(pieces) == text
        assert n < 1000 or max(map(len, pieces)) < len(text) / 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_a_record_or_damage(value: object) -> None:
    with pytest.raises(ImageCorrupt):
        decode_record(Outer, value, "f")
    for key in sample_object():
        mutated = sample_object() | {key: value}
        try:
            decode_record(Outer, mutated, "f")
        except ImageCorrupt as error:
            assert f"f is damaged: {key}" in error.message  # noqa: PT017


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("text", "text", 1),
        ("text", "text", None),
        ("flag", "flag", 1),
        ("ratio", "ratio", True),
        ("ratio", "ratio", math.inf),
        ("ratio", "ratio", 10**400),
        ("colour", "colour", "blue"),
        ("colour", "colour", ["red"]),
        ("maybe", "maybe", 3),
        ("maybe.number", "maybe", {"data": ""}),
        ("items", "items", {}),
        ("items[1].number", "items", [{"number": 1, "data": ""}, {"number": "1", "data": ""}]),
        ("items[0].number", "items", [{"number": True, "data": ""}]),
        ("items[0].number", "items", [{"number": 2**64, "data": ""}]),
        ("items[0].number", "items", [{"number": -(2**63) - 1, "data": ""}]),
        ("items[0].data", "items", [{"number": 1, "data": "?"}]),
        ("items[0].data", "items", [{"number": 1, "data": "YQ"}]),
        ("items[0].data", "items", [{"number": 1, "data": "\u00e9"}]),
        ("table.rip", "table", {"rip": 1.0}),
    ],
)
def test_a_mismatch_is_named_by_its_place(place: str, key: str, value: object) -> None:
    with pytest.raises(ImageCorrupt) as caught:
        decode_record(Outer, sample_object() | {key: value}, "m.json")
    assert caught.value.message.startswith(f"m.json is damaged: {place} is ")


def test_unknown_keys_are_ignored() -> None:
    assert decode_record(Outer, sample_object() | {"new": {"a": [1]}}, "f") == SAMPLE


def test_missing_keys_need_a_default() -> None:
    value = sample_object()
    del value["later"]
    assert decode_record(Outer, value, "f") == SAMPLE
    del value["text"]
    with pytest.raises(ImageCorrupt, match="text is missing"):
        decode_record(Outer, value, "f")


def test_an_integer_will_do_for_a_float() -> None:
    assert decode_record(Outer, sample_object() | {"ratio": 2}, "f").ratio == 2.0


def test_a_class_without_a_json_form_is_a_mistake_of_ours() -> None:
    @dataclass
    class Odd:
        value: complex

    with pytest.raises(TypeError, match="no JSON form"):
        encode_record(Odd(1j))
    with pytest.raises(TypeError, match="no JSON form"):
        decode_record(Odd, {"value": 1}, "f")

"""The JSON Schemas in docs/schemas: of this code, sound, and strict."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from jsonschema import Draft202012Validator

import cli
from commands.fieldnames import FIELDS
from commands.schemas import DIRECTORY, RESULTS, schemas, write
from tests.schemas import check_event

HOOK = {
    "type": "hook",
    "command": "dump",
    "pid": 1,
    "hook": "after-dump",
    "ok": True,
    "message": "",
    "duration_ns": 5,
}
ERROR = {"type": "error", "command": "dump", "message": "no", "hint": "", "exit_code": 1}


def test_the_files_are_those_of_the_code() -> None:
    """If not: make schemas."""
    files = {path.name: json.loads(path.read_text()) for path in DIRECTORY.glob("*.json")}
    assert files == schemas()


def test_each_is_a_schema_with_words_for_everything() -> None:
    used = {"error figures"}
    for name, schema in schemas().items():
        Draft202012Validator.check_schema(schema)
        assert schema["description"], name
        waiting = [schema]
        while waiting:
            one = waiting.pop()
            properties = one.get("properties", {})
            assert isinstance(properties, dict)
            for field, inner in properties.items():
                assert inner["description"] == FIELDS[field], f"{name}: {field}"
                used.add(field)
                waiting += [inner, *([inner["items"]] if "items" in inner else [])]
    assert used == set(FIELDS), "a description that nothing needs"


def test_every_command_has_one_for_its_result() -> None:
    assert set(RESULTS) == set(cli.COMMANDS)


def test_every_command_is_there() -> None:
    context = click.Context(cli.cli)
    for name in cli.COMMANDS:
        command = cli.cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help, name


def test_what_fits() -> None:
    check_event(HOOK)
    check_event(ERROR)
    check_event({**ERROR, "path": "/tmp", "errno": 28})


@pytest.mark.parametrize(
    "event",
    [
        {**HOOK, "new": 1},
        {key: value for key, value in HOOK.items() if key != "pid"},
        {**HOOK, "ok": "yes"},
        {**HOOK, "duration_ns": -1},
        {**HOOK, "duration_ns": 1.5},
        {**HOOK, "type": "unheard-of"},
        {**HOOK, "type": "result", "command": "unheard-of"},
        {**ERROR, "figure": 1.5},
        {"type": "result", "command": "detach", "pid": 1, "tracked": True},
    ],
)
def test_what_does_not(event: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        check_event(event)


def test_a_schema_that_is_no_more_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "schemas"
    directory.mkdir()
    (directory / "old.json").write_text("{}")
    write(directory)
    assert {path.name for path in directory.iterdir()} == set(schemas())

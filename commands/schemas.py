"""JSON Schemas of what `--json` prints: made of the types of the code, with a description for each name.

`python -m commands.schemas` writes them to docs/schemas. An event is described by TYPE-COMMAND.json if there is such a
file, else by TYPE.json.
"""

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path

from analysis.diff.rounds import PageCounts
from analysis.files.corefiles import FilesOfCore
from analysis.mappings import PageKind
from analysis.places import Section
from analysis.search.search import Mapped
from analysis.words import Word
from commands.diffevents import MappingPlace
from commands.fieldnames import FIELDS
from dumper import events
from dumper.checks import Check
from dumper.observe import Observation
from dumper.projection import Projection
from formats.check import Finding
from formats.criu.export import CriuReport
from formats.elfcore import CoreReport
from formats.flatten import FlattenReport
from formats.manifest import Stats, Vma
from formats.rawexport import RawReport
from formats.rawindex import RawIndex
from formats.restorable import Obstacle
from restorer.checks import Problem
from restorer.events import Restored
from restorer.rewind.rewind import Rewound

DIRECTORY = Path(__file__).parent.parent / "docs" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, object]
Fields = dict[str, object]
"""Python types by the names of fields."""

OBJECT = object()
"""In place of a type: an object that is described elsewhere."""
MAY_BE_NEGATIVE = {"prediction_error_percent"}
PLACE: Fields = {"checkpoint": str, "to": str}
"""One of them."""
GONE_PLACE: Fields = {**PLACE, "handover": OBJECT}
SENT: Fields = {"round": int, "kind": str, "stored_bytes": int}


def _fields(kind: type) -> Fields:
    """Of a dataclass, but for what every event has."""
    hints = typing.get_type_hints(kind)
    return {one.name: hints[one.name] for one in dataclasses.fields(kind) if one.name != "type"}


DUMP: Fields = {**_fields(events.RoundFinished), "hooks_failed": list[str]}
FIGURES = _fields(FlattenReport)
PAGES = _fields(PageCounts)
EVENTS: dict[str, tuple[str, Fields, Fields]] = {
    **{
        str(kind.__dataclass_fields__["type"].default): (str(kind.__doc__), _fields(kind), {})
        for kind in (
            events.Attached,
            events.RoundStarted,
            events.RoundProgress,
            events.MicroRound,
            events.RoundFinished,
            events.Predicted,
            events.Observed,
            events.HookFinished,
            events.HandedOver,
        )
    },
    "notice": (
        str(events.Notice.__doc__),
        {"subject": str, "message": str},
        {"pid": int, "fields": dict[str, str | int]},
    ),
    "check": ("One thing that was tried on this host.", _fields(Check), {}),
    "finding": ("One thing that is wrong with an image; exit code 0 for a warning.", _fields(Finding), {}),
    "match": (
        "A match of a search.",
        {
            **{"pid": int, "addr": int, "place": str, "length": int, "hex": str, "before_hex": str, "after_hex": str},
            **{"encoding": str, "repeats": int, "found_in": list[int], "elsewhere": list[Mapped]},
        },
        {"start_addr": int, "end_addr": int, "perms": str, "path": str, "value_place": str},
    ),
    "listening": ("A receiver waits for its sender.", {"address": str, "port": int}, {}),
    "round-inspect": (
        "A round of the checkpoint.",
        {"round": int, "kind": str, "created_ns": int, "full": bool, **_fields(Stats)},
        {},
    ),
    "vma": (
        "A mapping of the process, with its pages by kind.",
        {
            "pid": int,
            **_fields(Vma),
            **{f"pages_{kind}": int for kind in PageKind},
            "stored_bytes": int | None,
            "pages_rewritten": int | None,
            "times_written": float | None,
        },
        {},
    ),
    "record": (
        "A thread, open file or whatever the section is about, as docs/format.md describes it.",
        {"section": str, "pid": int, "record": OBJECT},
        {},
    ),
    "process-diff": (
        "A process in the two rounds that are compared.",
        {"pid": int, "to_pid": int | None, "name": str, "change": str, **PAGES, "pages_left": int, "pages_unread": int},
        {},
    ),
    "mapping-diff": (
        "A mapping that is not the same, or has pages that are not.",
        {"pid": int, "change": str, **_fields(MappingPlace), "kind": str, **PAGES, "was": MappingPlace | None},
        {},
    ),
    "bytes-diff": (
        "Bytes that are not the same: a range of them, or all those in a symbol.",
        {"pid": int, "addr": int, "length": int, "place": str, "ranges": int, "before": str, "after": str},
        {},
    ),
    "state-diff": (
        "A field of the state that is not the same.",
        {"pid": int, "subject": str, "name": str, "field": str, "before": object, "after": object},
        {},
    ),
    "problem": ("Something that stands in the way of a restore, or comes back otherwise.", _fields(Problem), {}),
    "restored": ("The processes are there again, and run.", {**_fields(Restored), "checkpoint": str}, {}),
    "round-send": ("A round has been sent.", SENT, {}),
    "round-receive": ("A round was received and is on disk.", SENT, {}),
}
RESULTS: dict[str, tuple[Fields, Fields]] = {
    "check": ({"ok": bool}, {}),
    "pre-dump": ({**_fields(events.RoundFinished), "checkpoint": str}, {}),
    "dump": (DUMP, GONE_PLACE),
    "run": ({**DUMP, "deferred_bytes": int, "converged": bool, "dumped": bool, "reason": str}, GONE_PLACE),
    "detach": ({"pid": int, "tracked": bool}, {}),
    "observe": (
        {**_fields(Observation), "max_freeze_ns": int, "projections": list[Projection]},
        {},
    ),
    "inspect": (
        {
            "checkpoint": str,
            "round": int,
            "pid": int,
            "whole": bool,
            "errors": int,
            "rounds": int,
            "files": int,
            "stored_bytes": int,
            "missing": int,
            "restorable": bool,
            "obstacles": list[Obstacle],
        },
        {"manifest": OBJECT},
    ),
    "read": (
        {"addr": int, "place": str, "length": int, "hex": str, "round": int},
        {"sections": list[Section], "text": str, "words": list[Word]},
    ),
    "search": (
        {
            **{"checkpoint": str, "matches": int, "complete": bool, "processes": int, "searched_rounds": list[int]},
            **{"searched_bytes": int, "zero_bytes": int, "duration_ns": int},
        },
        {},
    ),
    "diff": (
        {
            "checkpoint": str,
            "round": int,
            "to_checkpoint": str,
            "to_round": int,
            "processes": int,
            "processes_changed": int,
            **PAGES,
        },
        {},
    ),
    "verify": (
        {"rounds": int, "files": int, "stored_bytes": int, "pages_data": int, "errors": int, "checkpoint": str},
        {},
    ),
    "export": (
        {"form": str, "checkpoint": str, "round": int, "duration_ns": int},
        {
            **_fields(CoreReport),
            **_fields(FilesOfCore),
            "gdb": list[str],
            **_fields(CriuReport),
            **_fields(RawReport),
        },
    ),
    "rewind": ({**_fields(Rewound), "checkpoint": str}, {}),
    "restore": (
        {"checkpoint": str},
        {**_fields(Restored), "status": int, "restorable": bool, "problems": int, "differences": int},
    ),
    "flatten": ({"checkpoint": str, "dropped": int, "duration_ns": int}, FIGURES),
    "report": (
        {
            **{"checkpoint": str, "round": int, "path": str, "bytes": int},
            **{"rounds": int, "processes": int, "vmas": int, "duration_ns": int},
        },
        {},
    ),
    "send": ({"rounds": int, "stored_bytes": int, "checkpoint": str}, {"to": str}),
    "receive": (
        {"rounds": int, "stored_bytes": int, "checkpoint": str},
        {"pids": list[int], "hook_ns": int, "resume_ns": int},
    ),
    "keys": ({"files": list[str], "hosts": list[str], "valid_days": int}, {}),
}
"""By command: what is always there, and what may be."""


def schemas() -> dict[str, Schema]:
    """All of them by the name of their file. Raises KeyError for a name without description."""
    found = {}
    for name, (text, required, optional) in EVENTS.items():
        found[name] = _of_event(name, text, required, optional)
    for command, (required, optional) in RESULTS.items():
        text = f"How '{command}' ended: the last line."
        found[f"result-{command}"] = _of_event(f"result-{command}", text, {**required, "exit_code": int}, optional)
    found["raw-index"] = {
        "$schema": DIALECT,
        "$id": "predump/raw-index.json",
        "title": "raw-index",
        **_of_type(RawIndex),
    }
    found["raw-index"]["description"] = "The file index.json of 'export --to raw'."
    error: Fields = {"message": str, "hint": str, "exit_code": int}
    found["error"] = _of_event("error", "What went wrong, and what to do about it: the last line.", error, {})
    found["error"]["additionalProperties"] = {"type": ["string", "integer"], "description": FIELDS["error figures"]}
    return {f"{name}.json": schema for name, schema in found.items()}


def _of_event(name: str, text: str, required: Fields, optional: Fields) -> Schema:
    kind, _, command = ("round-start", "", "") if name == "round-start" else name.partition("-")
    if kind == "micro":
        kind, command = name, ""
    properties: dict[str, Schema] = {
        "type": {"const": kind, "description": FIELDS["type"]},
        "command": {"const": command} if command else {"type": "string"},
    }
    properties["command"]["description"] = FIELDS["command"]
    for field, hint in {**required, **optional}.items():
        if field not in properties:
            properties[field] = _of_field(field, hint)
    return {
        "$schema": DIALECT,
        "$id": f"predump/{name}.json",
        "title": name,
        "description": " ".join(text.split()),
        "type": "object",
        "properties": properties,
        "required": ["type", "command", *required],
        "additionalProperties": False,
    }


def _of_field(name: str, hint: object) -> Schema:
    schema = _of_type(hint)
    if schema == {"type": "integer"} and name not in MAY_BE_NEGATIVE:
        schema["minimum"] = 0
    return {**schema, "description": FIELDS[name]}


def _of_type(hint: object) -> Schema:
    plain = {int: "integer", float: "number", bool: "boolean", str: "string", types.NoneType: "null"}
    if hint is OBJECT:
        return {"type": "object"}
    if hint is object:
        return {}
    if isinstance(hint, type) and issubclass(hint, enum.StrEnum):
        return {"enum": [member.value for member in hint]}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        inner = _fields(hint)
        return {
            "type": "object",
            "properties": {name: _of_field(name, one) for name, one in inner.items()},
            "required": list(inner),
            "additionalProperties": False,
        }
    if isinstance(hint, type) and hint in plain:
        return {"type": plain[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        return {"anyOf": [_of_type(one) for one in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_type(arguments[1])}
    if origin in (list, tuple, Sequence):
        return {"type": "array", "items": _of_type(arguments[0])}
    raise TypeError(f"{hint} has no schema")


def write(directory: Path) -> None:
    """Writes them down, and removes those that are no more. Raises OSError, KeyError."""
    directory.mkdir(exist_ok=True)
    made = schemas()
    for path in directory.glob("*.json"):
        if path.name not in made:
            path.unlink()
    for name, schema in made.items():
        (directory / name).write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    write(DIRECTORY)

"""Whether a line of --json is as its JSON Schema says: docs/schemas."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"


@functools.cache
def _validator(kind: str, command: str) -> Draft202012Validator:
    for name in (f"{kind}-{command}.json", f"{kind}.json"):
        path = SCHEMAS / name
        if path.exists():
            return Draft202012Validator(json.loads(path.read_text()))
    raise AssertionError(f"docs/schemas has nothing for a '{kind}' of '{command}': see commands/schemas.py")


def check_event(event: Mapping[str, object]) -> None:
    """AssertionError unless its schema has every field of it, as it is."""
    validator = _validator(str(event["type"]), str(event.get("command")))
    wrong = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(event)]
    what = "it is not as its schema in docs/schemas; 'make schemas' writes them anew from commands/schemas.py"
    assert not wrong, f"{event}\n{what}\n" + "\n".join(wrong)

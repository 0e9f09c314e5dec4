"""What the page is made of: it holds what it should, needs nothing else, and nothing in it is more than text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from display.report.page import as_data_block, render
from tests.report.samples import LIBRARY, ROOT, WORKER, crowded_data, data_of, write_sample

HOSTILE = "</script><script>alert(1)</script><!--<b>'\"&amp;\u202egnp.exe\x1b[31m\x00\udcff__proto__"
MAX_BYTES = 5_000_000


@dataclass
class Parts(HTMLParser):
    """Elements of a page, and what is in its blocks, as a browser would see them."""

    names: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    blocks: list[tuple[str, str]] = field(default_factory=list)
    policy: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        values = dict(attrs)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "action", "data", "style")]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(values["content"])
        if tag in ("script", "style"):
            self.blocks.append((str(values.get("type", tag)), ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag in ("script", "style") and self.blocks:
            kind, text = self.blocks[-1]
            self.blocks[-1] = (kind, text + data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.lasttag = ""


def parts_of(page: bytes) -> Parts:
    parts = Parts()
    parts.feed(page.decode())
    parts.close()
    return parts


def digest_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ---- the page ------------------------------------------------------------------------------------


def test_only_its_own_script_and_style_may_run() -> None:
    parts = parts_of(render("title", {"a": 1}))
    blocks = dict(parts.blocks)
    assert [kind for kind, _ in parts.blocks] == ["style", "application/json", "script"]
    policy = dict(part.split(" ", 1) for part in parts.policy.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == digest_of(blocks["script"])
    assert policy["style-src"] == digest_of(blocks["style"])
    assert policy["require-trusted-types-for"] == "'script'"


def test_nothing_is_loaded() -> None:
    page = render("title", {})
    assert sorted(parts_of(page).links) == ["#content", "data:,"]
    assert re.findall(rb"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page) == []


def test_markup_is_never_made_of_text() -> None:
    """The policy forbids it; nor does the script try."""
    script = dict(parts_of(render("title", {})).blocks)["script"]
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\(['\"]"
    assert re.findall(forbidden, script) == []


@settings(max_examples=40, deadline=None)
@given(
    data=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_data_stays_in_its_block(data: object) -> None:
    block = as_data_block([data, HOSTILE])
    assert block.isascii()
    assert not set("<>&") & set(block)
    assert json.loads(block) == [data, HOSTILE]


def test_a_hostile_title_is_text() -> None:
    page = render(HOSTILE.replace("\udcff", ""), {})
    assert parts_of(page).names.count("script") == 2
    assert b"alert(1)</script>" not in page


# ---- what it knows -------------------------------------------------------------------------------


def texts_in(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts_in(item)]
    return [text for item in value for text in texts_in(item)] if isinstance(value, list | tuple) else []


def test_names_cannot_drive_anything(checkpoint: Path) -> None:
    data = data_of(write_sample(checkpoint, HOSTILE, f"/{HOSTILE}/{HOSTILE}"))
    texts = texts_in(data)
    assert any("\\x1b[31m" in text and "\\u202e" in text for text in texts)
    assert [text for text in texts if not text.isprintable()] == []
    assert max(map(len, texts_in({**data, "processes": []}))) < 400


def test_rounds_and_processes(checkpoint: Path) -> None:
    data = data_of(write_sample(checkpoint))
    rounds, processes = data["rounds"], data["processes"]
    assert isinstance(rounds, list)
    assert isinstance(processes, list)
    assert [(one["number"], one["kind"], one["full"]) for one in rounds] == [
        (1, "pre-dump", True),
        (2, "pre-dump", False),
        (3, "pre-dump", False),
        (4, "dump", False),
        (5, "dump", False),
    ]
    assert rounds[-1]["phases"] == [["stop", 400_000], ["state", 900_000], ["copy", 2_100_000], ["resume", 150_000]]
    assert [one["pid"] for one in processes] == [ROOT, WORKER]
    assert [one["presence"] for one in processes] == [[1, 2, 2, 2, 2], [0, 0, 1, 2, 2]]
    assert data["missing"] == [{"what": f"descriptor 7 of process {ROOT}", "why": "it is server"}]


def test_mappings(checkpoint: Path) -> None:
    (root, _) = data_of(write_sample(checkpoint, path=LIBRARY))["processes"]  # type: ignore[misc]
    regions = root["regions"]
    rows = [dict(zip(regions["columns"], row, strict=True)) for row in regions["rows"]]
    names = [regions["names"][row["name"]][0] for row in rows]
    assert names == ["heap", "libexample.so.6", "anon", "gone", "1", "stack"]
    by_name = dict(zip(names, rows, strict=True))
    heap = by_name["heap"]
    assert (heap["n_pages"], heap["written_rounds"], heap["written"]) == (40, 4, 12 + 8 + 6 + 4)
    assert (heap["data"] + heap["zero"] + heap["parent"], heap["absent"]) == (40, 0)
    assert [name for name, row in by_name.items() if row["gone"]] == ["gone"]
    assert [regions["notes"][by_name[name]["note"]] for name in ("gone", "1")] == [
        "unmapped since",
        "shared memory, object 1",
    ]
    n_cells = sum(row["n_cells"] for row in rows)
    assert len(base64.b64decode(root["cells"])) == 5 * n_cells


def test_ten_thousand_mappings_in_a_hundred_rounds() -> None:
    page = render("crowded", crowded_data())
    assert len(page) < MAX_BYTES


@pytest.mark.parametrize("name", ["page.html", "page.css", "text.js", "heatmap.js"])
def test_the_parts_are_shipped(name: str) -> None:
    """In a wheel, too: what pyproject.toml says of them fits them all."""
    import tomllib  # noqa: PLC0415

    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "display.report" in settings["packages"]
    patterns = settings["package-data"]["display.report"]
    assert any((root / "display" / "report" / name).match(pattern) for pattern in patterns)

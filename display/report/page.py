"""Puts the page together: one HTML file that needs nothing else, and may load nothing else.

What images say may be hostile. It is in the page as JSON only, in a block that no browser runs, and the script puts it
on the screen as text only; the Content-Security-Policy permits that very script, that very style, and no other source
of anything.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from string import Template

_DIRECTORY = Path(__file__).parent
_SCRIPTS = (
    *("text.js", "charts.js", "sizes.js", "tables.js", "columns.js"),
    *("heatmodel.js", "heatdrawing.js", "heatcontrols.js", "heatmap.js"),
    "page.js",
)
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}
"""With these, no JSON ends the block that it is in, or begins a comment there."""


def _template(name: str) -> str:
    return (_DIRECTORY / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """What a Content-Security-Policy permits a block of that text by."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_source(style)}",
            f"script-src {_source(script)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def as_data_block(data: object) -> str:
    """JSON that may stand in a script element: in ASCII, and without a character that HTML looks for."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def render(title: str, data: object) -> bytes:
    """The page; `data` is what `display.report.data` makes."""
    style = _template("page.css")
    script = '"use strict";\n' + "\n".join(map(_template, _SCRIPTS))
    page = Template(_template("page.html")).substitute(
        policy=html.escape(_policy(style, script)),
        title=html.escape(title),
        style=style,
        script=script,
        data=as_data_block(data),
    )
    return page.encode("utf-8")

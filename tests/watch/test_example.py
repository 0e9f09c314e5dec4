"""The example of docs/writewatch.md, run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.harness import REPO

PAGE = REPO / "docs" / "writewatch.md"


def test_the_example_does_what_the_page_says() -> None:
    text = PAGE.read_text()
    (script,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    said = re.findall(r"`(\d+ pages copied)`", text)
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said
    assert done.stdout.splitlines() == said

"""What people read of results and errors is what was said."""

import pytest

from display.reporter import Reporter

TEXT = "/tmp/:bug:/[red]x"


def test_names_that_look_like_markup_or_emoji_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter("inspect", as_json=False)
    reporter.error(f"{TEXT} is no checkpoint", f"Name another one than {TEXT}", 1, {})
    reporter.result({}, f"{TEXT}: done.")
    said = capsys.readouterr()
    assert said.err.count(TEXT) == 2
    assert TEXT in said.out

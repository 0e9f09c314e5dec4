"""The page as a person has it: in a real browser, which is started once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from display.report.page import render
from tests.report.browser import Browser
from tests.report.samples import LIBRARY, MAPPINGS, ROUNDS, crowded_data, data_of, write_sample
from tests.report.test_page import HOSTILE

WIDE, NARROW = 1280, 380
ZOOM_TEXT = "#heatmap .toolbar .number"
MAP_LEFT_PX, MAP_BAND_PX, ROW_PX = 52, 22, 22  # heatdrawing.js: MAP, and the height of a row where there are few rounds


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def browser(running: Browser) -> Iterator[Browser]:
    """The browser; whatever a test does, no script fails, nothing complains, and nothing but the page is loaded."""
    running.problems.clear()
    running.requests.clear()
    running.emulate(width=WIDE)
    yield running
    running.settle()
    assert running.problems == []
    assert [url for url in running.requests if not url.startswith("file:///")] == []
    assert len(set(running.requests)) == 1


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small tree: five rounds, two of which are dumps."""
    directory = tmp_path_factory.mktemp("small")
    path = directory / "page.html"
    path.write_bytes(render("server", data_of(write_sample(directory / "checkpoint", path=LIBRARY))))
    return path


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crowded") / "page.html"
    path.write_bytes(render("crowded", crowded_data()))
    return path


def column(browser: Browser, panel: int, number: int) -> list[str]:
    """What is to be read in a column of a table, from the first row on."""
    found = browser.run(
        f"[...document.querySelectorAll('#panel-{panel} tbody td:nth-child({number})')].map((cell) => cell.innerText)"
    )
    assert isinstance(found, list)
    return list(map(str, found))


def overflow_px(browser: Browser) -> object:
    """By how much the page is wider than its window."""
    return browser.run("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth")


def canvas_colours(browser: Browser) -> set[str]:
    """Colours of the heat map."""
    found = browser.run(
        "(() => { const canvas = document.querySelector('.map canvas'); const copy = canvas.cloneNode();"
        "const context = copy.getContext('2d'); context.drawImage(canvas, 0, 0); const found = new Set();"
        "const data = context.getImageData(0, 0, copy.width, copy.height).data;"
        "for (let i = 0; i < data.length; i += 4) found.add([data[i], data[i + 1], data[i + 2]].join(' '));"
        "return [...found]; })()"
    )
    assert isinstance(found, list)
    return set(map(str, found))


# ---- what is shown -------------------------------------------------------------------------------


def test_the_summary(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.text("h1").split() == ["server", "pid", "4242"]
    tiles = browser.text("#tiles")
    for words in ("5\nthe last one a dump", "3.6 ms\npredicted 3.9 ms", "2026-11-2", "2 threads", "2.7× smaller"):
        assert words in tiles
    assert browser.run("document.querySelectorAll('#convergence svg').length") == 3
    assert "Round 5 stood still for 3.6 ms" in browser.text("#freeze-lead")
    assert [name for name in ("stop", "state", "copy", "resume", "other") if name in browser.text(".phases")] == [
        "stop",
        "state",
        "copy",
        "resume",
        "other",
    ]
    assert browser.text(".names tbody tr").split()[0] == "heap"


def test_a_table_is_sorted_by_its_headings(browser: Browser, page: Path) -> None:
    browser.open(page)
    heading = "#panel-0 th:nth-child(10) button"  # how long the round took
    assert browser.text(heading) == "Took"
    browser.click(heading)
    assert column(browser, 0, 1) == ["1", "2", "3", "4", "5"]
    assert browser.run("document.querySelector('#panel-0 th:nth-child(10)').ariaSort") == "descending"
    browser.run("document.activeElement.blur(); document.querySelector('#panel-0 th:nth-child(10) button').focus()")
    browser.press("Enter")
    assert column(browser, 0, 1) == ["5", "4", "3", "2", "1"]
    browser.click("#tab-1")
    browser.click("#panel-1 th:nth-child(2) button")
    assert column(browser, 1, 2) == ["1", "anon", "gone", "heap", "libexample.so.6", "stack"]


def test_a_table_is_filtered(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#panel-0 input")
    browser.type("DUMP first")
    assert column(browser, 0, 1) == ["1"]
    browser.type(" nothing-like-it")
    assert column(browser, 0, 1) == []
    assert browser.text("#panel-0 [role=status]") == "none, filtered from 5"


def test_tabs_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#tab-0")
    for _ in range(2):
        browser.press("ArrowRight")
    assert browser.run("document.activeElement.id") == "tab-2"
    assert column(browser, 2, 3) == ["server", "worker"]
    assert browser.run("getComputedStyle(document.querySelector('#panel-0')).display") == "none"


def test_the_other_process(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(
        "(() => { const select = document.querySelector('#process-chooser select'); select.selectedIndex = 1;"
        "select.dispatchEvent(new Event('change')); })()"
    )
    browser.settle()
    assert browser.text("#memory-lead").startswith("worker, pid 4243: 1 mapping, 16.0 KiB present.")
    browser.click(".map")
    browser.press("Home")
    browser.press("ArrowUp")
    browser.press("ArrowUp")
    browser.press("ArrowUp")
    assert "the process is not in it" in browser.text(".said")


# ---- the heat map --------------------------------------------------------------------------------


def test_what_is_below_the_pointer(browser: Browser, page: Path) -> None:
    browser.open(page)
    x, y, _, _ = browser.box(".map")
    browser.mouse("mouseMoved", x + MAP_LEFT_PX + 2, y + MAP_BAND_PX + 1.5 * ROW_PX)
    browser.settle()
    assert browser.text(".tip").splitlines() == [
        "heap",
        "0x7f0000000000–0x7f0000001000, 4.0 KiB, rw-p heap",
        "Round 2: 1 of 1 page written",
        "written in 4 of 4 rounds, each page 4.0 times on average",
    ]
    browser.mouse("mouseMoved", x + MAP_LEFT_PX + 2, y + MAP_BAND_PX + 0.5 * ROW_PX)
    browser.settle()
    assert "Round 1: seen for the first time" in browser.text(".tip")
    browser.mouse("mouseMoved", 1, 1)
    browser.settle()
    assert browser.run("document.querySelector('.tip').hidden")


def test_zoom_by_buttons_keys_and_wheel(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.text(ZOOM_TEXT) == ""
    browser.click("#heatmap [aria-label='Zoom in']")
    assert browser.text(ZOOM_TEXT) == "1.6×"
    browser.click("#heatmap [aria-label='Zoom out']")
    assert browser.text(ZOOM_TEXT) == ""
    x, y, width, height = browser.box(".map")
    middle = (x + width / 2, y + height / 2)
    browser.mouse("mouseWheel", *middle, deltaX=0, deltaY=-200)
    browser.settle()
    assert browser.text(ZOOM_TEXT) == "", "without the focus the page scrolls"
    browser.click(".map")
    browser.press("+")
    browser.press("+")
    assert browser.text(ZOOM_TEXT) == "2.6×"
    x, y, width, height = browser.box(".map")
    browser.mouse("mouseWheel", x + width / 2, y + height / 2, deltaX=0, deltaY=-200)
    browser.wait_for(f"document.querySelector('{ZOOM_TEXT}').innerText === '3.8×'")
    browser.press("0")
    assert browser.text(ZOOM_TEXT) == ""
    before = browser.run("scrollY")
    browser.mouse("mouseWheel", x + width / 2, y + height / 2, deltaX=0, deltaY=200)
    browser.wait_for(f"scrollY > {before}")


def test_moving_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('.map').focus()")
    browser.press("Home")
    assert browser.text(".said").startswith("heap · 0x7f0000000000–0x7f0000001000")
    assert "Round 5: 1 of 1 page written" in browser.text(".said")
    browser.press("ArrowUp")
    assert "Round 4: " in browser.text(".said")
    browser.press("n")
    assert browser.text(".said").startswith(f"libexample.so.6 · {LIBRARY}")
    browser.press("p")
    assert browser.text(".said").startswith("heap")
    browser.press("End")
    assert browser.text(".said").startswith("stack")


def test_from_the_table_to_the_map_and_by_name(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#tab-1")
    browser.click("#panel-1 button[title='Show gone in the map']")
    assert browser.text(".said").startswith("gone · /gone · ")
    assert "not mapped any more in the last round" in browser.text(".said")
    assert browser.run("document.activeElement.className") == "map"
    assert browser.text(ZOOM_TEXT) != ""
    browser.click("#heatmap input")
    browser.type("EXAMPLE")
    browser.press("Enter")
    assert browser.text(".said").startswith("libexample.so.6")
    browser.type("x")
    browser.press("Enter")
    assert "No mapping" in browser.text(".said")


def test_all_rounds_at_once(browser: Browser, page: Path) -> None:
    browser.open(page)
    by_round = canvas_colours(browser)
    browser.click("#heatmap .toolbar button:nth-child(2)")
    assert browser.run("document.querySelector('#heatmap .toolbar button:nth-child(2)').ariaPressed") == "true"
    assert canvas_colours(browser) != by_round


# ---- light and dark, paper, windows --------------------------------------------------------------


def test_light_dark_and_paper(browser: Browser, page: Path) -> None:
    browser.open(page)
    background = "getComputedStyle(document.body).backgroundColor"
    light = (browser.run(background), canvas_colours(browser))
    browser.emulate(width=WIDE, scheme="dark")
    dark = (browser.run(background), canvas_colours(browser))
    assert light[0] != dark[0]
    assert not {"236 238 239"} & dark[1]
    assert "236 238 239" in light[1]
    browser.emulate(width=800, scheme="dark", medium="print")
    assert browser.run("getComputedStyle(document.querySelector('.toolbar')).display") == "none"
    assert "236 238 239" in canvas_colours(browser), "paper is light"
    assert browser.run("document.querySelectorAll('[role=tabpanel]').length") == 5
    assert browser.run("[...document.querySelectorAll('[role=tabpanel]')].every((one) => one.offsetHeight > 0)") is True
    assert browser.pdf().startswith(b"%PDF-")


@pytest.mark.parametrize("width", [NARROW, 760, WIDE, 2200])
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.emulate(width=width)
    browser.open(page)
    assert overflow_px(browser) == 0


# ---- images are hostile --------------------------------------------------------------------------


def test_hostile_names_are_text(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(render("hostile", data_of(write_sample(tmp_path / "checkpoint", HOSTILE, f"/{HOSTILE}"))))
    browser.open(path)
    assert "</script><script>alert(1)</script><!--<b>'\"&amp;\\u202egnp.exe\\x1b[31m" in browser.text("h1")
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelectorAll('main b, main img').length") == 0
    browser.click("#tab-1")
    assert any("\\x1b[31m" in name for name in column(browser, 1, 2))
    assert overflow_px(browser) == 0
    browser.emulate(width=NARROW)
    assert overflow_px(browser) == 0


@pytest.mark.parametrize("number", [-1, 0, 2**64 - 1])
def test_numbers_that_make_no_sense(browser: Browser, tmp_path: Path, page: Path, number: int) -> None:
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    for one in data["rounds"]:
        for key, value in one.items():
            if type(value) is int and key != "number":
                one[key] = number
        one["phases"] = [["stop", max(number, 1)], ["copy", max(number, 1)]]
    path = tmp_path / "page.html"
    path.write_bytes(render("strange", data))
    browser.open(path)
    assert browser.run("document.querySelectorAll('#convergence svg').length") == 3
    assert "NaN" not in browser.text("body")
    assert browser.text("footer").startswith("Made by predump")


def test_a_process_without_memory(browser: Browser, tmp_path: Path, page: Path) -> None:
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    (process, _) = data["processes"]
    process |= {"note": "zombie, exit code 1", "cells": "", "threads": [], "n_threads": 7}
    process["regions"]["rows"] = []
    process["pages"] = dict.fromkeys(process["pages"], 0)
    path = tmp_path / "page.html"
    path.write_bytes(render("zombie", data))
    browser.open(path)
    browser.emulate(width=WIDE, scheme="dark")
    assert "zombie, exit code 1" in browser.text("#memory-lead")
    assert "No round" in browser.text("#heatmap")
    browser.click("#tab-3")
    assert browser.text("#panel-3 [role=status]") == "none; 7 more are not in this report"


def test_the_policy_stands(running: Browser, page: Path) -> None:
    """Nothing that gets into the page could load something, or make markup of text."""
    running.open(page)
    assert running.run("fetch('https://example.org/').then(() => 'loaded', () => 'refused')") == "refused"
    markup = "(() => { try { document.body.innerHTML = '<b>x</b>'; } catch (error) { return error.name; } })()"
    assert running.run(markup) == "TypeError"
    script = "(() => { const one = document.createElement('script'); try { one.text = 'window.ran = 1'; } catch {}"
    running.run(f"{script} document.body.append(one); }})()")
    assert running.run("window.ran") is None


# ---- very much of it -----------------------------------------------------------------------------


def test_ten_thousand_mappings_in_a_hundred_rounds(browser: Browser, crowded: Path) -> None:
    browser.open(crowded)
    assert f"{MAPPINGS:,} mappings" in browser.text("#memory-lead")
    assert browser.run("document.querySelectorAll('tbody tr').length < 1000")
    browser.click("#tab-1")
    browser.click("#panel-1 th:nth-child(10) button")
    assert f"1–50 of {MAPPINGS:,}" in browser.text("#panel-1 [role=status]")
    browser.click("#panel-1 [aria-label='Next rows']")
    assert "51–100" in browser.text("#panel-1 [role=status]")
    browser.click("#panel-1 input")
    browser.type("libnumber-7777.so")
    assert column(browser, 1, 2) == ["libnumber-7777.so.7777"]
    browser.click("#panel-1 tbody .link")
    assert browser.text(".said").startswith("libnumber-7777.so.7777 · ")
    assert f"Round {ROUNDS}: " in browser.text(".said")
    browser.press("0")
    x, y, width, height = browser.box(".map")
    browser.mouse("mouseMoved", x + width / 2, y + height / 2)
    browser.settle()
    assert "libnumber-" in browser.text(".tip")
    assert overflow_px(browser) == 0

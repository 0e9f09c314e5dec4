"""predump report: the file, the result, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from formats.layout import PAGE_BYTES, pagemap_name
from tests.harness import Target, poll_until, predump
from tests.report.samples import ROOT, WORKER, write_sample


def data_in(page: Path) -> dict[str, object]:
    """What a page knows."""
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    assert isinstance(data, dict)
    return data


@pytest.fixture
def sample(checkpoint: Path) -> Path:
    return write_sample(checkpoint)


def test_a_page_of_a_real_process(tmp_path: Path, checkpoint: Path, targets: None) -> None:  # noqa: ARG001
    """It writes the first pages of its memory again and again, and none of the others."""
    page = tmp_path / "page.html"
    n_pages, n_hot = 512, 64
    with Target.spawn("steady", n_pages, n_hot, 50_000) as target:
        first_page = int(target.ready.split()[1]) // PAGE_BYTES
        for command in ("pre-dump", "pre-dump", "dump"):
            written = int(target.command("written").split()[-1])
            poll_until(lambda: int(target.command("written").split()[-1]) > written + n_hot, 30, "a turn")  # noqa: B023
            predump(command, "-p", target.pid, "-D", checkpoint)
    result = predump("report", checkpoint, "-o", page, "--json").events[-1]
    assert (result["path"], result["bytes"]) == (str(page), page.stat().st_size)
    assert (result["round"], result["rounds"], result["processes"]) == (3, 3, 1)
    assert page.stat().st_mode & 0o777 == 0o600
    data = data_in(page)
    rounds, (process,) = data["rounds"], data["processes"]  # type: ignore[misc]
    assert rounds[-1]["frozen_ns"] >= sum(ns for _, ns in rounds[-1]["phases"]) > 0  # type: ignore[index]
    regions = [dict(zip(process["regions"]["columns"], row, strict=True)) for row in process["regions"]["rows"]]
    assert len(regions) == result["vmas"]
    cells = base64.b64decode(process["cells"])
    n_cells = len(cells) // 3
    found = {}  # by page: what the two later rounds wrote of it
    cell = 0
    for region in regions:
        for number in range(region["n_cells"]):
            at = region["start"] + number * region["cell_pages"]
            found[at] = (cells[n_cells + cell] > 0, cells[2 * n_cells + cell] > 0)
            cell += 1
    assert {found[first_page + at] for at in range(n_hot)} == {(True, True)}
    assert {found[first_page + at] for at in range(n_hot, n_pages)} == {(False, False)}


def test_up_to_a_round_and_of_a_process(tmp_path: Path, sample: Path) -> None:
    page = tmp_path / "page.html"
    done = predump("report", sample, "-o", page, "--round", "4", "--pid", WORKER)
    assert "4 rounds, 1 process, 1 mapping" in done.stdout
    data = data_in(page)
    assert [one["number"] for one in data["rounds"]] == [1, 2, 3, 4]  # type: ignore[attr-defined]
    assert [one["pid"] for one in data["processes"]] == [WORKER]  # type: ignore[attr-defined]
    assert [one["pid"] for one in data["members"]] == [ROOT, WORKER]  # type: ignore[attr-defined]


def test_what_is_in_the_way_stays_unless_forced(tmp_path: Path, sample: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert "exists" in predump("report", sample, "-o", page, expect=2).stderr
    assert page.read_text() == "mine"
    predump("report", sample, "-o", page, "--force")
    assert page.read_text().startswith("<!doctype html>")


def test_a_damaged_checkpoint_leaves_no_file(tmp_path: Path, sample: Path) -> None:
    directory = tmp_path / "pages"
    directory.mkdir()
    path = sample / "0002" / pagemap_name(ROOT)
    path.write_bytes(path.read_bytes()[:-1])
    done = predump("report", sample, "-o", directory / "page.html", expect=20)
    assert "is damaged" in done.stderr
    assert list(directory.iterdir()) == []


def test_who_is_not_there(tmp_path: Path, sample: Path) -> None:
    predump("report", sample, "-o", tmp_path / "page.html", "--pid", "7", expect=2)
    predump("report", tmp_path, "-o", tmp_path / "page.html", expect=1)

"""A process does what is known between two dumps: `diff` tells just that, and nothing else of the kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import cli
from tests.harness import Event, Target, number, parse_events, predump

pytestmark = pytest.mark.usefixtures("targets")

CHANGES = [
    "global",
    "table",
    "heap",
    "same",
    "shared",
    "map",
    "protect",
    "zero",
    "drop",
    "open",
    "seek",
    "signal",
    "limit",
    "directory",
    "thread",
]
PAGE_BYTES = 4096


def diff(*words: object, expect: int = 0) -> str:
    """What the command prints, run in this process: it needs no other."""
    done = CliRunner().invoke(cli, ["diff", *map(str, words)])
    assert done.exit_code == expect, done.output
    return done.stdout


class Story:
    """Dumps of the target: 1 (a pre-dump) and 2, the changes, 3, two of them undone, 4."""

    def __init__(self, checkpoint: Path, target: Target, addrs: dict[str, int], path: Path) -> None:
        self.checkpoint = checkpoint
        self.pid = target.pid
        self.addrs = addrs
        self.path = path

    def events(self, kind: str, *words: object) -> list[Event]:
        return [event for event in parse_events(diff(self.checkpoint, *words, "--json")) if event["type"] == kind]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("diff")
    checkpoint = directory / "checkpoint"
    with Target.spawn("changing", directory / "file") as target:

        def dump() -> None:
            predump("dump", "-p", target.pid, "-D", checkpoint, "--staging", "32M", "--keep-tracking")

        def change(what: str) -> int:
            found = re.match(r"ok (\(nil\)|0x[0-9a-f]+)", target.command(what))
            assert found is not None
            return 0 if found[1] == "(nil)" else int(found[1], 16)

        dump()
        addrs = {what: change(what) for what in CHANGES}
        dump()
        for what in ("unmap", "close"):
            change(what)
        dump()
        predump("detach", "-p", target.pid)
        yield Story(checkpoint, target, addrs, directory / "file")


def mapping_at(events: list[Event], addr: int) -> Event:
    (found,) = [event for event in events if number(event, "start_addr") <= addr < number(event, "end_addr")]
    return found


def test_pages_by_mapping(story: Story) -> None:
    mappings = story.events("mapping", 2, 3)
    came = mapping_at(mappings, story.addrs["map"])
    assert (came["change"], came["pages_added"], came["was"]) == ("added", 3, None)
    protected = mapping_at(mappings, story.addrs["protect"])
    assert protected["change"] == "changed"
    assert (protected["perms"], protected["was"]["perms"]) == ("r--p", "rw-p")
    area = mapping_at(mappings, story.addrs["zero"])
    assert (area["pages_changed"], area["pages_gone"]) == (1, 1)
    shared = mapping_at(mappings, story.addrs["shared"])
    assert (shared["change"], shared["pages_changed"], shared["pages_added"]) == ("same", 1, 0)
    gone = mapping_at(story.events("mapping", 3, 4), story.addrs["map"])
    assert (gone["change"], gone["pages_gone"]) == ("gone", 3)


def test_bytes_by_symbol(story: Story) -> None:
    places = {str(event["place"]): event for event in story.events("bytes", 2, 3, "--bytes", "--max", 10_000)}
    counter = places["changing:changing_counter"]
    assert (counter["addr"], counter["before"], counter["after"]) == (story.addrs["global"], "01", "02")
    table = places["changing:changing_table"]
    assert (table["addr"], table["ranges"], table["length"]) == (story.addrs["table"], 2, 101)
    by_addr = {event["addr"]: event for event in places.values()}
    heap = by_addr[story.addrs["heap"]]
    assert bytes.fromhex(str(heap["before"])) == b"welcom"
    assert bytes.fromhex(str(heap["after"])) == b"goodby"
    assert str(heap["place"]).startswith("heap+0x")
    assert number(by_addr[story.addrs["shared"]], "length") == 1
    assert not any(
        story.addrs["same"] <= number(event, "addr") < story.addrs["same"] + PAGE_BYTES for event in places.values()
    )


def test_state(story: Story) -> None:
    changes = story.events("state", 2, 3)
    by_name = {(event["subject"], event["name"], event["field"]): event for event in changes}
    (thread,) = [event for event in changes if event["subject"] == "thread" and event["before"] is None]
    assert int(str(thread["name"])) != story.pid
    (opened,) = [event for event in changes if event["subject"] == "file"]
    assert (opened["before"], opened["after"]["file"]["path"]) == (None, str(story.path))
    assert opened["after"]["file"]["offset"] == 100
    assert by_name["process", "", "cwd"]["after"] == "/"
    assert by_name["signal", "10", ""]["before"] is None
    assert by_name["limit", "4", ""]["after"]["soft"] == 4096
    (closed,) = [event for event in story.events("state", 3, 4) if event["subject"] == "file"]
    assert (closed["name"], closed["after"]) == (opened["name"], None)


def test_a_round_and_itself(story: Story) -> None:
    assert "nothing changed" in diff(story.checkpoint, 3, 3)
    (result,) = story.events("result", 3, 3, "--bytes")
    assert (result["processes_changed"], result["exit_code"]) == (0, 0)
    assert [result[name] for name in result if name.startswith("pages_")] == [0] * 4


def test_a_copy_of_the_round_is_the_same(story: Story, tmp_path: Path) -> None:
    predump("flatten", story.checkpoint / "0003", "-o", tmp_path / "one")
    assert "nothing changed" in diff(story.checkpoint / "0003", tmp_path / "one")


def test_which_rounds_are_meant(story: Story) -> None:
    by_number = predump("diff", story.checkpoint, 2, 3, "--json").stdout
    assert diff(story.checkpoint / "0002", story.checkpoint / "0003", "--json") == by_number
    (last,) = story.events("result", 2)
    assert (last["round"], last["to_round"]) == (2, 4)
    for words, expect in (((9, 1), 2), ((1, 2, "--pid", 7), 2), ((story.path,), 1)):
        diff(story.checkpoint, *words, expect=expect)
    predump("diff", story.checkpoint, "x", 1, expect=2)


def test_only_some_mappings(story: Story) -> None:
    (heap,) = story.events("mapping", 2, 3, "--vma", "heap")
    assert heap["kind"] == "heap"
    places = [str(event["place"]) for event in story.events("bytes", 2, 3, "--bytes", "--vma", "*/changing")]
    assert places
    assert all(place.startswith("changing") for place in places)


def test_a_pre_dump_cannot_tell_all(story: Story) -> None:
    assert "without state and shared memory" in diff(story.checkpoint, 1, 2)
    (process,) = story.events("process", 1, 2)
    assert number(process, "pages_unknown") >= 64
    assert not story.events("state", 1, 2)


def test_two_processes_of_one_program(story: Story, tmp_path: Path) -> None:
    """Their mappings lie elsewhere, and are found by their names."""
    other = tmp_path / "other"
    with Target.spawn("changing", tmp_path / "file") as target:
        target.command("global")
        predump("dump", "-p", target.pid, "-D", other, "--staging", "32M")
    found = parse_events(diff(story.checkpoint / "0002", other, "--bytes", "--json", "--vma", "*/changing"))
    (process,) = [event for event in found if event["type"] == "process"]
    assert (process["pid"], process["to_pid"]) == (story.pid, target.pid)
    mappings = [event for event in found if event["type"] == "mapping"]
    assert {event["change"] for event in mappings} == {"same"}
    counter = next(event for event in found if event.get("place") == "changing:changing_counter")
    assert (counter["before"], counter["after"]) == ("01", "02")

"""The /proc parsers on captured text."""

import pytest

from dumper.proc.fds import lowest_free
from dumper.proc.maps import MapsParser, parse_line, without_overlaps
from dumper.proc.stat import parse_stat
from dumper.proc.status import parse_status


def test_a_mapping_with_blanks_and_a_newline_in_its_path() -> None:
    mapping = parse_line(b"7f0000000000-7f0000003000 rw-s 00001000 08:01 42      /tmp/a b\\012c (deleted)")
    assert (mapping.start_addr, mapping.end_addr, mapping.n_pages) == (0x7F0000000000, 0x7F0000003000, 3)
    assert (mapping.offset_bytes, mapping.device, mapping.inode) == (0x1000, "08:01", 42)
    assert mapping.path == "/tmp/a b\nc (deleted)"
    assert mapping.is_shared
    assert not mapping.is_executable


def test_an_anonymous_mapping_and_a_path_that_is_not_utf8() -> None:
    assert parse_line(b"10000-11000 ---p 00000000 00:00 0").path == ""
    path = parse_line(b"10000-11000 r--p 00000000 08:01 7 /tmp/\xff").path
    assert path.encode("utf-8", "surrogateescape") == b"/tmp/\xff"


@pytest.mark.parametrize("line", [b"", b"7f00-", b"nonsense", b"1-2 rw-p 0 0:0"])
def test_a_line_that_is_not_understood_is_never_skipped(line: bytes) -> None:
    with pytest.raises(ValueError, match="maps"):
        parse_line(line)


def test_of_overlapping_mappings_the_first_counts() -> None:
    """As a reader may get them while the process moves memory."""
    lines = b"1000-3000 rw-p 0 00:00 0\n3000-6000 rw-p 0 00:00 0\n4000-5000 rw-p 0 00:00 0\n5000-7000 r--p 0 00:00 0\n"
    lines += b"6000-7000 rw-p 0 00:00 0\n"
    found = without_overlaps(MapsParser().parse(lines))
    assert [(m.start_addr, m.end_addr) for m in found] == [(0x1000, 0x3000), (0x3000, 0x6000), (0x6000, 0x7000)]


def test_mappings_are_parsed_anew_when_they_change() -> None:
    parser = MapsParser()
    before = parser.parse(b"1000-2000 rw-p 00000000 00:00 0\n3000-4000 rw-p 00000000 00:00 0\n")
    after = parser.parse(b"1000-2000 rw-p 00000000 00:00 0\n3000-5000 rw-p 00000000 00:00 0\n")
    assert after[0] is before[0]
    assert after[1].end_addr == 0x5000


def test_a_name_with_brackets_and_blanks() -> None:
    numbers = " ".join(str(n) for n in range(4, 53))
    stat = parse_stat(f"7 (a) b (c) S {numbers}\n".encode())
    assert (stat.name, stat.state, stat.ppid, stat.flags, stat.start_time_ticks) == ("a) b (c", "S", 4, 9, 22)


def test_status() -> None:
    text = b"Name:\tx\nTracerPid:\t12\nUid:\t1\t2\t3\t4\nSeccomp:\t2\nx86_Thread_features:\tshstk wrss\n"
    status = parse_status(text)
    assert (status.tracer_pid, status.uids, status.seccomp_mode, status.shadow_stack) == (12, (1, 2, 3, 4), 2, True)


def test_lowest_free_descriptor() -> None:
    assert lowest_free({}) == 0
    assert lowest_free({0: "", 1: "", 3: ""}) == 2

"""The two hosts that other tests are run on: they reach each other, their link fails and recovers, nothing stays."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import poll_until
from tests.netns import Link, two_hosts


def answers(link: Link) -> bool:
    """Whether the right host answers the left one."""
    probe = f"import socket; socket.create_connection(('{link.right.address}', 9), 0.3)"
    said = link.left.run("python3", "-c", probe).stderr
    return "ConnectionRefusedError" in said  # by a host that is there, and has no such service


def test_hosts_reach_each_other_until_the_link_is_cut(hosts: Link) -> None:
    poll_until(lambda: answers(hosts), 10, "the hosts to see each other")
    hosts.right.set_link(up=False)
    assert not answers(hosts)
    hosts.mend()
    poll_until(lambda: answers(hosts), 10, "the link to come back")


def test_the_rate_of_the_link_is_set(hosts: Link) -> None:
    hosts.limit_rate(50_000_000)
    assert "rate 50Mbit" in hosts.left.run("tc", "qdisc", "show", "dev", "eth0").stdout
    hosts.mend()
    assert "tbf" not in hosts.left.run("tc", "qdisc", "show", "dev", "eth0").stdout


def test_a_command_keeps_its_pid(hosts: Link) -> None:
    with subprocess.Popen(hosts.left.words("sleep", "60")) as process:
        name = Path(f"/proc/{process.pid}/comm")
        poll_until(lambda: name.read_text() == "sleep\n", 10, "sleep to run under the pid that was started")
        process.kill()


def test_nothing_stays_behind_also_after_a_failure_and_a_killed_run() -> None:
    named = Path("/run/netns")
    with suppress(ZeroDivisionError), two_hosts():
        raise ZeroDivisionError
    ended = subprocess.Popen(["true"])
    ended.wait()
    left_behind = f"predump-test-{ended.pid}-1-left"
    if subprocess.run(["ip", "netns", "add", left_behind], check=False).returncode != 0:
        pytest.skip("namespaces cannot be made")
    with two_hosts():
        assert not (named / left_behind).exists()
    assert list(named.glob(f"predump-test-{os.getpid()}-*")) == []

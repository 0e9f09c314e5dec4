"""What `predump check` finds: on this host, without privileges, and where the kernel lacks things."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from dumper.checks import Check, run_checks
from dumper.kernel import probes, uffd

REPO = Path(__file__).resolve().parents[2]
NOBODY = 65534
CHILD_S = 60.0
PRIVILEGED = {"userfaultfd", "other-users", "map-files", "suspend-seccomp"} | {
    f"restore-{name}" for name in ("ids", "executable", "time-namespace", "tcp")
}
AS_JSON = """
import dataclasses, json
from dumper.checks import run_checks
print(json.dumps([dataclasses.asdict(check) for check in run_checks()]))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has every privilege")


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    """Whatever a check starts, it reaps."""
    before = _children()
    yield
    assert _children() == before


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def _by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def _raises(number: int) -> Callable[..., int]:
    def call(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


def _assert_well_formed(check: Check) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", check.name)
    assert check.title
    assert check.detail
    assert "\n" not in check.detail
    assert check.ok == (check.exit_code == 0) == (check.remedy == "")
    assert check.exit_code in (0, 1, 11, 12)


@needs_root
def test_root_has_all_that_is_required() -> None:
    found = run_checks()

    assert [check for check in found if check.required and not check.ok] == []
    assert {check.name for check in found if check.required} == {
        "x86-64",
        "pagemap-scan",
        "userfaultfd-user-mode-only",
        "uffd-wp-async",
        "ptrace",
        "pidfd-getfd",
        "process-vm-readv",
        "tracking",
    }
    assert len(_by_name(found)) == len(found)
    for check in found:
        _assert_well_formed(check)


def test_checks_leave_no_descriptor_open() -> None:
    run_checks()
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    run_checks()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def _python_as_nobody(capability: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run `program` as uid 65534, with one capability or none ("")."""
    kept = f"-all,+{capability}" if capability else "-all"
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    caps = [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
    return subprocess.run(
        ["setpriv", *ids, *caps, "--pdeathsig=KILL", sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CHILD_S,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
# With CAP_DAC_READ_SEARCH, an interpreter in a directory like /root can be read. No check asks for it.
@pytest.mark.parametrize("capability", ["", "dac_read_search"])
def test_without_privileges_each_missing_one_is_named(capability: str) -> None:
    trial = _python_as_nobody(capability, "import dumper.checks")
    if trial.returncode:
        pytest.skip(f"uid {NOBODY} cannot run {sys.executable}: {trial.stderr.strip()[-120:]}")
    done = _python_as_nobody(capability, AS_JSON)
    assert done.returncode == 0, done.stderr

    found = [Check(**check) for check in json.loads(done.stdout)]
    by_name = _by_name(found)
    expected = PRIVILEGED | ({"yama"} if not by_name["yama"].ok else set())
    if by_name["unprivileged-userfaultfd"].detail.startswith("1"):
        expected -= {"userfaultfd"}
    missing = {check.name for check in found if not check.ok}

    assert missing == expected
    assert all(by_name[name].exit_code == 11 and by_name[name].remedy for name in missing)
    assert not any(by_name[name].required for name in missing)
    for check in found:
        _assert_well_formed(check)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTTY, errno.ENOSYS])
def test_a_kernel_without_pagemap_scan(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(probes, "scan_category", _raises(number))
    check = _by_name(run_checks())["pagemap-scan"]

    assert (check.ok, check.required, check.exit_code) == (False, True, 12)
    assert errno.errorcode[number] in check.detail
    _assert_well_formed(check)


def test_a_kernel_that_does_not_know_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "knows_category", lambda category: category != probes.PAGE_IS_GUARD)
    by_name = _by_name(run_checks())

    assert by_name["pagemap-scan"].ok
    assert by_name["page-is-guard"].exit_code == 12
    _assert_well_formed(by_name["page-is-guard"])


def test_a_kernel_without_userfaultfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "userfaultfd", _raises(errno.ENOSYS))
    by_name = _by_name(run_checks())

    for name in ("userfaultfd", "userfaultfd-user-mode-only", "uffd-wp-async"):
        assert by_name[name].exit_code == 12
        _assert_well_formed(by_name[name])


def test_a_kernel_without_async_write_protection(monkeypatch: pytest.MonkeyPatch) -> None:
    def enable(_: int, features: uffd.Feature = uffd.TRACKING_FEATURES) -> None:
        if features & uffd.Feature.WP_ASYNC:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(uffd, "enable", enable)
    check = _by_name(run_checks())["uffd-wp-async"]

    assert (check.exit_code, check.detail) == (12, "userfaultfd lacks WP_ASYNC")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_what_is_neither_absent_nor_refused_has_failed(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(probes, "userfaultfd", _raises(number))
    check = _by_name(run_checks())["userfaultfd-user-mode-only"]

    assert check.exit_code == 1
    assert check.detail.startswith("failed: ")
    _assert_well_formed(check)


def test_a_check_is_plain_data() -> None:
    assert all(json.loads(json.dumps(asdict(check))) == asdict(check) for check in run_checks())

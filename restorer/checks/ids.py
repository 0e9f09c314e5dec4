"""Whether the ids that processes and threads had are free, and whether they can be made in that order at all."""

from __future__ import annotations

from collections.abc import Iterator

from formats.manifest import Manifest
from restorer.checks.findings import Problem, Subject
from restorer.errors import RestoreFailed
from restorer.freepids import wait_until_free
from restorer.plan import Plan, make_plan


def look(manifest: Manifest, *, own_session: bool, need_free: bool) -> Iterator[Problem]:
    """`need_free`: they come back with the ids that they had, in the caller's pid namespace.

    Whoever had them may have ended an instant ago: that is waited for.
    """
    try:
        plan = make_plan(manifest.processes, manifest.root_pid, own_session=own_session)
    except RestoreFailed as error:
        yield Problem(Subject.IMAGE, error.message, error.hint)
        return
    if need_free:
        yield from _taken(plan)


def _taken(plan: Plan) -> Iterator[Problem]:
    try:
        wait_until_free(plan.ids())
    except RestoreFailed as error:
        yield Problem(Subject.ID, error.message, error.hint)

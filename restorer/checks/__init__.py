"""Everything that a restore needs outside of the image, looked at before the first process is made.

    trust           whose image it is; without an answer nothing else is looked at
    restorable      what the image itself lacks (formats.restorable)
    files           mapped and open files, directories
    watches         what inotify watches
    ids             free process ids
    abilities       the kernel, and what the caller may
    processor       registers and instructions
    segments        of System V
    clocks          that count from the boot
    surroundings    memory, namespaces, cgroups, addresses of sockets

Each takes the manifest and facts (`host`), and yields problems; `check_restore` collects all of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from formats.checkpoint import Checkpoint
from formats.manifest import Manifest
from formats.restorable import Verdict, openfiles, verdict_on
from formats.restorable.processes import PARENT_DEATH
from restorer.checks import abilities, clocks, files, ids, processor, segments, surroundings, watches
from restorer.checks.findings import Findings, Problem, Subject
from restorer.checks.host import Host, look_at_host
from restorer.clocks import now
from restorer.files.choices import OUTSIDE, FileChoices
from restorer.files.refusals import refusals
from restorer.trust import distrusted, strange_paths

__all__ = ["CheckOptions", "Findings", "Problem", "Subject", "check_manifest", "check_restore", "look_at_owner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """As of the restore: same_pids, pid_namespace, time_namespace, own_session, files; trust: whoever wrote it."""

    same_pids: bool = True
    pid_namespace: bool = False
    time_namespace: bool = False
    own_session: bool = False
    trust: bool = False
    files: FileChoices = field(default_factory=FileChoices)


def check_restore(images: Checkpoint, number: int | None, options: CheckOptions, host: Host | None = None) -> Findings:
    """All that speaks against a restore of a round, or would come back otherwise. Nothing is made that stays.

    `host` is this machine if it was looked at before: its clocks are looked at anew.
    Raises ImageCorrupt, ImageVersionUnsupported, StorageError, UsageError for a round that is not there.
    """
    number = images.selected if number is None else number
    if not options.trust and (findings := look_at_owner(images, number)).problems:
        return findings
    manifest = images.round(number).manifest
    try:
        host = replace(host, clocks=now()) if host else look_at_host()
    except OSError as error:
        findings = Findings()
        message = f"Not even a process without anything can be made: {error.strerror}."
        findings.add([Problem(Subject.KERNEL, message, "'predump check' says what this host lacks.")])
        return findings
    return check_manifest(manifest, options, host)


def look_at_owner(images: Checkpoint, number: int) -> Findings:
    """Whose a round is, and those before it, on which it may build, and the directory they are in.

    Not those that this process has written itself.
    """
    findings = Findings(is_trusted=False)
    findings.add(distrusted(images.path, [one for one in images.numbers_read if one <= number], os.geteuid()))
    return findings


def check_manifest(manifest: Manifest, options: CheckOptions, host: Host) -> Findings:
    """The same of a round that is trusted."""
    findings = Findings()
    findings.add(of_image(manifest, options))
    if findings.problems:
        return findings  # what follows reads what may not be there
    same_ids = options.same_pids
    findings.add(ids.look(manifest, own_session=options.own_session, need_free=same_ids and not options.pid_namespace))
    findings.add(files.look(manifest))
    findings.add(watches.look(manifest, host.boot_id))
    wanted = abilities.needs(manifest, same_ids=same_ids, time_namespace=options.time_namespace)
    findings.add(abilities.try_out(wanted, host.trials))
    findings.add(abilities.credentials(manifest, host.made_as))
    findings.add(processor.look(manifest, host.xstate, host.instructions))
    findings.add(surroundings.memory(manifest, host.available_bytes))
    findings.add(surroundings.descriptors(manifest, host.max_fds))
    findings.add(surroundings.namespaces(manifest, host.boot_id, host.namespaces))
    findings.add(segments.look(manifest, host.boot_id))
    findings.add(clocks.look(manifest, host.clocks, time_namespace=options.time_namespace))
    findings.add(surroundings.cgroups(manifest, host.cgroups))
    findings.add(surroundings.sockets(manifest))
    return findings


def of_image(manifest: Manifest, options: CheckOptions) -> list[Problem]:
    """What the image says of itself, with what the caller chose."""
    verdict = verdict_on(manifest)
    if all(process.state or process.zombie for process in manifest.processes):
        _apply(options.files, manifest, verdict)
    if options.time_namespace:
        for process in manifest.processes:
            verdict.forget(process.pid, "time namespace")
    if not options.own_session:
        verdict.forget(manifest.root_pid, PARENT_DEATH)
    found = [
        Problem(Subject.IMAGE, f"{one.what}: {one.reason}.", _hint(one.reason) if stops else "", stops)
        for items, stops in ((verdict.obstacles, True), (verdict.warnings, False))
        for one in items
    ]
    return [*found, *strange_paths(manifest)]


def _hint(reason: str) -> str:
    if reason == OUTSIDE:
        return "Give something in its place (--inherit-fd, --tty), or have it closed there (--outside close)."
    return "Nothing can be done about it here: 'predump inspect --show restore' has all of it."


def _apply(choices: FileChoices, manifest: Manifest, verdict: Verdict) -> None:
    """What they refuse stops a restore; what they give something else for does not."""
    refused = refusals(manifest, choices)
    by_kind = Verdict()
    openfiles.look(manifest, by_kind)
    left = {(one.pid, one.what) for one in refused}
    for one in by_kind.obstacles:
        if (one.pid, one.what) not in left:
            verdict.forget(one.pid, one.what)
    for one in refused:
        verdict.stop(one.pid, one.what, one.reason)

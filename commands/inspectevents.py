"""What `inspect --json` prints: an event for each row of the sections that are asked for, and the result."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice

from analysis.subject import Subject
from display.missing import missing_of
from display.reporter import Reporter
from formats.records import Json, encode_record, record_text
from formats.restorable import verdict_on

_Event = dict[str, object]


def print_events(reporter: Reporter, subject: Subject, sections: tuple[str, ...], limit: int | None) -> None:
    """The events of these sections, of each `limit` at most, then what is wrong, then the result.

    The result has the manifest where the summary is asked for.
    """
    for name in sections:
        for event in islice(_events(subject, name), limit):
            reporter.event(event)
    survey, manifest = subject.survey, subject.manifest
    for finding in survey.findings:
        reporter.event({"type": "finding", **asdict(finding)})
    fields: _Event = {
        "checkpoint": str(subject.images.path.absolute()),
        "round": subject.info.number,
        "pid": subject.process.pid,
        "whole": survey.is_whole,
        "errors": survey.n_findings,
        "rounds": len(survey.rounds),
        "files": survey.files,
        "stored_bytes": sum(item.stats.stored_bytes for item in survey.rounds),
        "missing": len(missing_of(manifest)),
    }
    verdict = verdict_on(manifest)
    fields["restorable"] = verdict.is_restorable
    fields["obstacles"] = [asdict(item) for item in verdict.obstacles]
    text = record_text(manifest) if "summary" in sections else None
    reporter.long_result(fields, "manifest", text, survey.exit_code)


def _events(subject: Subject, section: str) -> Iterator[_Event]:
    if section == "rounds":
        for item in subject.survey.rounds:
            own = {"round": item.number, "created_ns": item.created_ns, "full": item.full}
            yield {"type": "round", **own, "kind": item.kind.value, **asdict(item.stats)}
    elif section == "vmas":
        for index in subject.chosen:
            yield _vma(subject, index)
    elif section in _RECORDS:
        for record in _RECORDS[section](subject):
            yield {"type": "record", "section": section, "pid": subject.process.pid, "record": record}


def _vma(subject: Subject, index: int) -> _Event:
    item = subject.mappings.mapping(index)
    return {
        "type": "vma",
        "pid": subject.process.pid,
        **encode_record(item.vma),
        **{f"pages_{kind}": n_pages for kind, n_pages in item.pages.items()},
        "stored_bytes": item.stored_bytes,
        "pages_rewritten": item.pages_rewritten,
        "times_written": item.times_written,
    }


def _threads(subject: Subject) -> Iterator[Json]:
    return map(encode_record, subject.process.threads)


def _files(subject: Subject) -> Iterator[Json]:
    files = {item.id: item for item in subject.manifest.open_files}
    for descriptor in subject.process.state.descriptors if subject.process.state else ():
        file = files.get(descriptor.open_file)
        yield encode_record(descriptor) | {"open_file": encode_record(file) if file else None}


def _signals(subject: Subject) -> Iterator[Json]:
    if subject.process.state:
        state = encode_record(subject.process.state)
        yield {name: state[name] for name in _SIGNALS}


def _environment(subject: Subject) -> Iterator[Json]:
    process = subject.process
    about: dict[str, Json] = {
        "name": process.name,
        "exe": process.exe,
        "exe_build_id": process.exe_build_id,
        "cmdline": list(process.cmdline),
        "host": encode_record(subject.manifest.host),
    }
    state = encode_record(process.state) if process.state else {}
    yield about | {name: value for name, value in state.items() if name not in {*_SIGNALS, "descriptors"}}


def _restore(subject: Subject) -> Iterator[Json]:
    verdict = verdict_on(subject.manifest)
    for items, stops in ((verdict.obstacles, True), (verdict.warnings, False)):
        for item in items:
            yield encode_record(item) | {"stops": stops}


def _tree(subject: Subject) -> Iterator[Json]:
    for process in subject.manifest.processes:
        yield {
            "pid": process.pid,
            "ppid": process.ppid,
            "start_time_ticks": process.start_time_ticks,
            "name": process.name,
            "cmdline": list(process.cmdline),
            "threads": len(process.threads),
            "vmas": len(process.vmas),
            "descriptors": len(process.state.descriptors) if process.state else 0,
            "zombie": encode_record(process.zombie) if process.zombie else None,
            "pages_present": process.pages_present,
        }


_SIGNALS = ("dispositions", "pending", "posix_timers", "interval_timers")
_RECORDS: dict[str, Callable[[Subject], Iterator[Json]]] = {
    "missing": lambda subject: map(encode_record, missing_of(subject.manifest)),
    "restore": _restore,
    "stats": lambda subject: iter([encode_record(subject.manifest.stats)]),
    "tree": _tree,
    "threads": _threads,
    "files": _files,
    "signals": _signals,
    "objects": lambda subject: map(encode_record, subject.manifest.objects),
    "environment": _environment,
}
"""What the manifest has for a section, piece by piece."""

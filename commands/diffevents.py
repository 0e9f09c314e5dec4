"""What `diff --json` says of a process."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from analysis.diff.rounds import MappingDiff, ProcessDiff, is_news
from formats.manifest import Vma
from formats.records import encode_value


@dataclass(frozen=True, slots=True)
class MappingPlace:
    """A mapping as it was, or as it is."""

    start_addr: int
    end_addr: int
    perms: str
    path: str

    @staticmethod
    def of(vma: Vma) -> "MappingPlace":
        """Where a mapping is."""
        return MappingPlace(vma.start_addr, vma.end_addr, vma.perms, vma.path)


def events_of(result: ProcessDiff) -> Iterator[dict[str, object]]:
    """The process, and then all that is not the same."""
    before, after = result.pair
    process = before or after
    assert process is not None
    change = "ended" if after is None else "came" if before is None else "changed" if result.differs else "same"
    yield {
        "type": "process",
        "pid": process.pid,
        "to_pid": after.pid if after else None,
        "name": process.name,
        "change": change,
        **asdict(result.counts),
        "pages_left": result.pages_left,
        "pages_unread": result.pages_unread,
    }
    for mapping in result.mappings:
        if mapping.counts.total or is_news(mapping):
            yield {"type": "mapping", "pid": process.pid, **_mapping(mapping)}
    for item in result.ranges:
        yield {
            "type": "bytes",
            "pid": process.pid,
            "addr": item.start_addr,
            "length": item.end_addr - item.start_addr,
            "place": item.place,
            "ranges": item.n_ranges,
            "before": item.before.hex(),
            "after": item.after.hex(),
        }
    for one in result.state:
        sides = {"before": encode_value(one.before), "after": encode_value(one.after)}
        words = {"subject": one.subject.value, "name": one.name, "field": one.field}
        yield {"type": "state", "pid": process.pid, **words, **sides}


def _mapping(mapping: MappingDiff) -> dict[str, object]:
    pair = mapping.pair
    change = "gone" if pair.after is None else "added" if pair.before is None else "same"
    return {
        "change": "changed" if change == "same" and is_news(mapping) else change,
        **asdict(MappingPlace.of(pair.vma)),
        "kind": pair.vma.kind,
        **asdict(mapping.counts),
        "was": asdict(MappingPlace.of(pair.before)) if pair.before else None,
    }

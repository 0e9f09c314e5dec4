"""The rounds of a checkpoint as a table, and all figures of one of them."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from analysis.survey import RoundFigures
from display.listing import CELL_MAX, ROWS_MAX, Column, block, listing, numbers
from display.units import bytes_text, clip, counted, duration_text, pages_cell, pages_text, ratio_text
from formats.manifest import Manifest, Stats


def phases_text(stats: Stats) -> str:
    """What a freeze consisted of, in its order."""
    return ", ".join(f"{name} {duration_text(ns)}" for name, ns in stats.phases().items() if ns)


def _notes(figures: RoundFigures) -> str:
    notes = [clip(figures.full_reason, CELL_MAX)] if figures.full else []
    notes += ["streamed while frozen"] if figures.streamed_while_frozen else []
    return "; ".join(notes)


def rounds_table(rounds: Sequence[RoundFigures], rows_max: int = ROWS_MAX) -> RenderableType | None:
    """One line a round, the last ones where there are too many."""
    names = ("data", "parent", "stored", "ratio", "time", "frozen")
    columns = (*numbers("round"), Column("kind"), *numbers(*names), Column("note", wraps=True))
    n_earlier = max(len(rounds) - rows_max, 0)
    title = f"Rounds (after {counted(n_earlier, 'earlier one')})" if n_earlier else "Rounds"
    rows = []
    for figures in rounds[n_earlier:]:
        stats = figures.stats
        rows.append(
            (
                str(figures.number),
                figures.kind.value,
                pages_cell(stats.pages_data),
                pages_cell(stats.pages_parent),
                bytes_text(stats.stored_bytes),
                ratio_text(stats.raw_bytes, stats.stored_bytes),
                duration_text(stats.duration_ns) if stats.duration_ns else "-",
                duration_text(stats.frozen_ns) if stats.frozen_ns else "-",
                _notes(figures),
            )
        )
    return listing(title, columns, rows, len(rows), rows_max)


def _figures(manifest: Manifest) -> Iterator[tuple[str, str]]:
    stats = manifest.stats
    pages = {
        "present": stats.pages_present,
        "written": stats.pages_written,
        "data": stats.pages_data,
        "zero": stats.pages_zero,
        "in earlier rounds": stats.pages_parent,
        "deferred": stats.pages_deferred,
    }
    yield "pages", ", ".join(f"{name} {n:,} ({pages_text(n)})" for name, n in pages.items() if n)
    ratio = ratio_text(stats.raw_bytes, stats.stored_bytes)
    yield "bytes", f"{bytes_text(stats.raw_bytes)} of data, {bytes_text(stats.stored_bytes)} stored ({ratio})"
    yield "time", duration_text(stats.duration_ns)
    times = {"stopped to attach": stats.attach_stop_ns, "scanning": stats.scan_ns, "copying": stats.copy_ns}
    yield "of it", ", ".join(f"{name} {duration_text(ns)}" for name, ns in times.items() if ns)
    if stats.frozen_ns:
        foretold = f", predicted {duration_text(stats.predicted_freeze_ns)}" if stats.predicted_freeze_ns else ""
        yield "frozen", duration_text(stats.frozen_ns) + foretold
        yield "freeze", f"by {manifest.freeze_by}: {phases_text(stats)}" if manifest.freeze_by else phases_text(stats)
        yield "pages copied frozen", f"{stats.pages_copied_frozen:,} ({pages_text(stats.pages_copied_frozen)})"
    yield "micro-rounds", str(stats.micro_rounds) if stats.micro_rounds else ""
    yield "injected calls", f"{stats.injected_calls:,}" if stats.injected_calls else ""


def stats_block(manifest: Manifest) -> RenderableType | None:
    """All figures of a round; those that are 0 are left out."""
    return block(f"Figures of round {manifest.round}", _figures(manifest))

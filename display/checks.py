"""What this host can do, as a table."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from dumper.checks import Check


def checks_table(checks: Sequence[Check]) -> Table:
    """One line a check, with the remedy below what is missing."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("verdict")
    table.add_column("check", overflow="fold")
    table.add_column("found", overflow="fold")
    for check in checks:
        verdict = (
            Text("ok", "green")
            if check.ok
            else Text("MISSING" if check.required else "absent", "red" if check.required else "yellow")
        )
        found = check.detail if check.ok else f"{check.detail}\n{check.remedy}"
        table.add_row(verdict, Text(check.title), Text(found))
    return table

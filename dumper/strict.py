"""`--strict`: what cannot be captured is an error, before anything is touched where that can be known."""

from collections.abc import Sequence

from dumper.describe import still_written, unreadable
from dumper.state.descriptors import DescriptorCapture
from dumper.state.process import ProcessCapture
from dumper.tree import LOST_ERRORS, Tree
from formats.errors import PredumpError
from formats.manifest import Missing

MAX_NAMED = 5


def foresee(tree: Tree) -> list[Missing]:
    """What of the processes will be missing, as far as it is known while they run untouched."""
    missing: list[Missing] = []
    with DescriptorCapture() as descriptors:
        for member in tree.members:
            try:
                vmas = member.space.read()
                missing += unreadable(vmas) + still_written(member.unseen_writers())
                with ProcessCapture(member.target, [vma.mapping for vma in vmas]) as capture:
                    missing += capture.foresee()
                missing += descriptors.foresee(member.target)
            except LOST_ERRORS:
                continue  # the dump will find out what became of it
    return missing


def refuse(missing: Sequence[Missing]) -> None:
    """Raises PredumpError if there is anything missing."""
    missing = list(dict.fromkeys(missing))  # processes that share an open file lack the same of it
    if not missing:
        return
    named = "; ".join(f"{item.what}: {item.reason}" for item in missing[:MAX_NAMED])
    more = f"; and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    raise PredumpError(
        f"not everything can be captured, and --strict asks for everything: {named}{more}",
        hint="Without --strict the dump holds the rest and names what is missing.",
        missing=len(missing),
    )

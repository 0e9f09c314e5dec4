"""What Python does by itself, and not while somebody waits."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TURN_S = 0.0002


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection in the freeze would lengthen it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def short_turns() -> Iterator[None]:
    """Threads have their turn as soon as they want it: usually they wait for 5 ms for one that works on."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual_s)

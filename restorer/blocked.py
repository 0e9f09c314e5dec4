"""Signals to ourselves that wait until something is done."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def blocked(signals: Iterable[int]) -> Iterator[None]:
    """Those that come to this thread in the block are taken behind it: sigprocmask(2)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

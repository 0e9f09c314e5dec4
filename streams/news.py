"""What the user should know of a link, told by a thread that nothing waits for: whoever listens may be slow."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Tell = Callable[[str, str], None]
"""Takes what it is about, a word for programs, and a sentence on what happened; in a thread of its own."""

_MAX_NEWS = 64
_LAST_WORDS_S = 1.0


class Newsroom:
    """The news of a link in the order in which they happened; of very many the oldest are not told."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._news: deque[tuple[str, str]] = deque(maxlen=_MAX_NEWS)
        self._changed = threading.Condition()
        self._is_telling = False

    def add(self, subject: str, message: str) -> None:
        """To be told at once; for any thread."""
        with self._changed:
            self._news.append((subject, message))
            if not self._is_telling:
                self._is_telling = True
                threading.Thread(target=self._run, name="link-news", daemon=True).start()

    def close(self) -> None:
        """Waits for the last ones to be told, but not for long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_telling, _LAST_WORDS_S)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._news:
                        return
                    news = self._news.popleft()
                self._tell(*news)
        finally:
            with self._changed:
                self._is_telling = False
                self._changed.notify_all()

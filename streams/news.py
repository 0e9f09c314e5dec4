"""What the user should know of a link: found out in its threads, told in the thread of whoever uses it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Tell = Callable[[str, str], None]
"""Takes what it is about, a word for programs, and a sentence on what happened; in any thread that uses the link."""

_MAX_NEWS = 64


class Newsroom:
    """The news of a link, and the condition that guards its state: `changed`."""

    def __init__(self, tell: Tell) -> None:
        self.changed = threading.Condition()
        self._tell = tell
        self._news: deque[tuple[str, str]] = deque(maxlen=_MAX_NEWS)

    def add(self, subject: str, message: str) -> None:
        """To be told; of very many the oldest are not."""
        with self.changed:
            self._news.append((subject, message))
            self.changed.notify_all()

    def wait_until(self, is_due: Callable[[], bool]) -> None:
        """Waits until `is_due`, called under `changed`, says so, and tells the news: in the user's thread."""
        due = False
        while not due:
            with self.changed:
                self.changed.wait_for(lambda: self._news or is_due())
                due = is_due()
                news = list(self._news)
                self._news.clear()
            for subject, message in news:
                self._tell(subject, message)

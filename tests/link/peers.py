"""Both sides of a link within the tests: messages whose content says which they are, and receivers that check it."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from formats.files import Buffer
from streams.keys import RECEIVER_NAME, SENDER_NAME, Authority
from streams.link import Credentials, LinkIncoming, LinkOptions, LinkOutgoing, Timing, connect, listen

HASTY = Timing(handshake_s=3, beat_s=0.1, silence_s=1.5, reconnect_s=15, max_retry_s=0.2, stall_s=10, close_s=3)
"""Everything that takes seconds, in a fraction of it: a test waits for some of it."""


@dataclass
class News:
    """What was told."""

    told: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, subject: str, message: str) -> None:
        self.told.append((subject, message))

    @property
    def subjects(self) -> list[str]:
        return [subject for subject, _ in self.told]

    def of(self, subject: str) -> str:
        """All that was said about it."""
        return "\n".join(message for about, message in self.told if about == subject)


def write_credentials(directory: Path, name: str, issued: tuple[bytes, bytes], ca: Authority) -> Credentials:
    """Files with a certificate that was issued, its key, and the CA that the other side's is checked with."""
    files = Credentials(directory / f"{name}.pem", directory / f"{name}.key", directory / f"{name}-ca.pem")
    for path, content in zip((files.cert, files.key, files.ca), (*issued, ca.certificate_pem), strict=True):
        path.write_bytes(content)
    return files


def good_credentials(directory: Path, ca: Authority) -> tuple[Credentials, Credentials]:
    """Those of a sender and of a receiver on loopback that trust each other."""
    sender = write_credentials(directory, SENDER_NAME, ca.issue(SENDER_NAME, []), ca)
    hosts = ["localhost", "127.0.0.1", "10.231.0.2"]
    return sender, write_credentials(directory, RECEIVER_NAME, ca.issue(RECEIVER_NAME, hosts), ca)


def message(number: int, seed: int = 0, max_bytes: int = 100_000) -> bytes:
    """Message `number` of a session: as long as it happens to be, and like no other."""
    rng = random.Random(f"{seed}/{number}")
    return rng.randbytes(rng.choice((0, 1, 100, rng.randrange(max_bytes))))


def digest_of(n_messages: int, seed: int = 0, max_bytes: int = 100_000) -> str:
    """Of the messages 1 to n, in order."""
    return Digest().update(*(message(number, seed, max_bytes) for number in range(1, n_messages + 1))).text


class Digest:
    """Of messages in order, with their boundaries."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.n_messages = 0

    def update(self, *messages: Buffer) -> Digest:
        for item in messages:
            self._hash.update(len(item).to_bytes(8, "little") + item)
            self.n_messages += 1
        return self

    @property
    def text(self) -> str:
        return self._hash.hexdigest()


class Receiver:
    """A thread that takes all messages of a session and acknowledges them, a few at a time."""

    def __init__(
        self,
        incoming: LinkIncoming,
        *,
        acknowledge_every: int = 1,
        taken: int | None = None,
        digest: Digest | None = None,
    ) -> None:
        self.incoming = incoming
        self.digest = digest or Digest()
        self.error: Exception | None = None
        self.is_done = False
        self._every = acknowledge_every
        self._number = incoming.resumed if taken is None else taken
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = self._number
        try:
            while (item := self.incoming.receive()) is not None:
                number += 1
                self.digest.update(item)
                if number % self._every == 0:
                    self.incoming.acknowledge(number)
        except Exception as error:
            self.error = error
        self.is_done = True

    def join(self) -> Receiver:
        self._thread.join(60)
        assert self.is_done, "the receiver did not come to an end"
        return self


@contextmanager
def linked(
    sides: tuple[Credentials, Credentials] | None = None, *, timing: Timing = HASTY, parallel: int = 1, **more: int
) -> Iterator[tuple[LinkOutgoing, LinkIncoming]]:
    """Both ends of a new link on loopback; with TLS if there are credentials."""
    sender, receiver = sides or (None, None)
    with listen("127.0.0.1:0", LinkOptions(credentials=receiver, timing=timing, **more), lambda _: 0) as listener:
        to = f"{'tls' if sides else 'tcp'}://{listener.address}"
        outgoing = connect(to, LinkOptions(credentials=sender, timing=timing, parallel=parallel, **more))
        try:
            with listener.accept() as incoming:
                yield outgoing, incoming
        finally:
            outgoing.close()

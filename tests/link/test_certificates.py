"""Who is let in: both sides show a certificate that the other's CA vouches for, and the sender checks the name."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from formats.errors import StorageError, UsageError
from streams.errors import StreamUntrusted
from streams.keys import RECEIVER_NAME, SENDER_NAME, Authority, Period
from streams.link import Credentials, LinkOptions, connect, listen
from streams.tls import sender_context
from tests.harness import predump
from tests.link.peers import HASTY, News, write_credentials

Sides = tuple[Credentials, Credentials]
NOW = datetime.datetime.now(datetime.UTC)
EXPIRED = Period(NOW - datetime.timedelta(days=9), NOW - datetime.timedelta(days=1))
NOT_YET = Period(NOW + datetime.timedelta(days=1), NOW + datetime.timedelta(days=9))
LOOPBACK = ["127.0.0.1", "localhost"]


def refused(sender: Credentials, receiver: Credentials, good: Credentials, host: str = "127.0.0.1") -> tuple[str, str]:
    """What the sender, and the receiver, say of a connection that is refused; then a good sender is let in."""
    news = News()
    with listen("127.0.0.1:0", LinkOptions(credentials=receiver, timing=HASTY, tell=news), lambda _: 0) as listener:
        port = listener.address.port
        with pytest.raises(StreamUntrusted) as caught:
            connect(f"tls://{host}:{port}", LinkOptions(credentials=sender, timing=HASTY))
        if good is not sender:
            outgoing = connect(f"tls://127.0.0.1:{port}", LinkOptions(credentials=good, timing=HASTY))
            with listener.accept():
                outgoing.close()
    assert caught.value.exit_code == 11
    assert caught.value.hint
    return caught.value.message, news.of("connection-refused")


@pytest.mark.parametrize(
    ("period", "words", "said"),
    [
        (EXPIRED, "expired", "certificate has expired"),
        (NOT_YET, "time yet to come", "certificate is not yet valid"),
    ],
)
def test_a_sender_out_of_its_time(
    tmp_path: Path, ca: Authority, sides: Sides, period: Period, words: str, said: str
) -> None:
    late = write_credentials(tmp_path, "late", ca.issue(SENDER_NAME, [], period), ca)
    sender, receiver = refused(late, sides[1], sides[0])
    assert words in sender
    assert said in receiver


def test_a_receiver_out_of_its_time(tmp_path: Path, ca: Authority, sides: Sides) -> None:
    late = write_credentials(tmp_path, "late", ca.issue(RECEIVER_NAME, LOOPBACK, EXPIRED), ca)
    sender, receiver = refused(sides[0], late, sides[0])
    assert "certificate has expired" in sender
    assert "the certificate of this side has expired" in receiver


def test_a_sender_of_another_authority(tmp_path: Path, sides: Sides, ca: Authority) -> None:
    other = Authority(Period.from_now())
    stranger = write_credentials(tmp_path, "stranger", other.issue(SENDER_NAME, []), ca)
    sender, receiver = refused(stranger, sides[1], sides[0])
    assert "does not vouch for the certificate of this side" in sender
    assert "certificate" in receiver


def test_a_receiver_of_another_authority(tmp_path: Path, sides: Sides, ca: Authority) -> None:
    other = Authority(Period.from_now())
    stranger = write_credentials(tmp_path, "stranger", other.issue(RECEIVER_NAME, LOOPBACK), ca)
    sender, receiver = refused(sides[0], stranger, sides[0])
    assert "is not accepted" in sender
    assert "does not vouch for the certificate of this side" in receiver


def test_a_receiver_of_another_name(sides: Sides, tmp_path: Path, ca: Authority) -> None:
    elsewhere = write_credentials(tmp_path, "elsewhere", ca.issue(RECEIVER_NAME, ["other.example", "10.0.0.1"]), ca)
    sender, receiver = refused(sides[0], elsewhere, sides[0])
    assert "not valid for '127.0.0.1'" in sender
    assert "finds name or key of this side's certificate wrong" in receiver


@pytest.mark.parametrize("role", [SENDER_NAME, RECEIVER_NAME])
def test_a_certificate_of_the_other_role(tmp_path: Path, sides: Sides, ca: Authority, role: str) -> None:
    wrong = write_credentials(tmp_path, "wrong", ca.issue(role, LOOPBACK), ca)
    pair = (sides[0], wrong) if role == SENDER_NAME else (wrong, sides[1])
    sender, receiver = refused(*pair, sides[0])
    assert "purpose" in sender + receiver


def test_a_sender_without_a_certificate(sides: Sides) -> None:
    news = News()
    with listen("127.0.0.1:0", LinkOptions(credentials=sides[1], timing=HASTY, tell=news), lambda _: 0) as listener:
        context = ssl.create_default_context(cafile=sides[0].ca)
        with (
            socket.create_connection(("127.0.0.1", listener.address.port)) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
            pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
        ):
            secured.recv(1)
    assert "it showed no certificate" in news.of("connection-refused")


def test_versions_before_1_3_are_not_spoken(sides: Sides) -> None:
    with listen("127.0.0.1:0", LinkOptions(credentials=sides[1], timing=HASTY), lambda _: 0) as listener:
        context = sender_context(sides[0])
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", listener.address.port)) as sock,
            pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
        ):
            context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_a_connection_joins_with_the_certificate_of_its_session_only(
    tmp_path: Path, sides: Sides, ca: Authority
) -> None:
    news = News()
    another = write_credentials(tmp_path, "another", ca.issue(SENDER_NAME, []), ca)
    with listen("127.0.0.1:0", LinkOptions(credentials=sides[1], timing=HASTY, tell=news), lambda _: 0) as listener:
        outgoing = connect(f"tls://{listener.address}", LinkOptions(credentials=sides[0], timing=HASTY))
        with listener.accept() as incoming:
            assert not incoming.is_of(incoming.session, None)
            assert not incoming.is_of(bytes(16), incoming.identity)
            assert incoming.is_of(incoming.session, incoming.identity)
            certificate = ssl.PEM_cert_to_DER_cert(another.cert.read_text())
            assert not incoming.is_of(incoming.session, certificate)
            outgoing.close()


def test_files_that_do_not_do(tmp_path: Path, sides: Sides) -> None:
    sender, receiver = sides
    text = tmp_path / "text"
    text.write_text("no certificate\n")
    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "pkey", "-in", sender.key, "-aes128", "-passout", "pass:x", "-out", encrypted]
    made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    cases: list[tuple[Credentials, type[Exception], str]] = [
        (replace(sender, key=receiver.key), UsageError, "not a certificate and its key"),
        (replace(sender, cert=text), UsageError, "not a certificate and its key"),
        (replace(sender, ca=text), UsageError, "no CA certificate"),
        (replace(sender, ca=tmp_path / "missing"), StorageError, "No such file"),
        *([(replace(sender, key=encrypted), UsageError, "encrypted")] if made else []),
    ]
    for credentials, error, words in cases:
        with pytest.raises(error, match=words) as raised:
            connect("tls://127.0.0.1:1", LinkOptions(credentials=credentials))
        assert "--" in str(getattr(raised.value, "hint", "")), "it says which option to look at"


def test_keys_makes_what_both_sides_need(tmp_path: Path) -> None:
    place = tmp_path / "keys"
    files = predump("keys", "-o", place, "--host", "127.0.0.1", "--json").result["files"]
    names = {"ca.pem", "sender.pem", "sender.key", "receiver.pem", "receiver.key"}
    assert isinstance(files, list)
    assert {Path(name).name for name in files} == names == {path.name for path in place.iterdir()}
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    sender, receiver = (
        Credentials(place / f"{role}.pem", place / f"{role}.key", place / "ca.pem")
        for role in (SENDER_NAME, RECEIVER_NAME)
    )
    with listen("127.0.0.1:0", LinkOptions(credentials=receiver, timing=HASTY), lambda _: 0) as listener:
        outgoing = connect(f"tls://{listener.address}", LinkOptions(credentials=sender, timing=HASTY))
        with listener.accept():
            outgoing.close()
    assert "--force" in predump("keys", "-o", place, "--host", "127.0.0.1", expect=2).stderr
    before = (place / "sender.key").read_bytes()
    predump("keys", "-o", place, "--host", "127.0.0.1", "--force")
    assert (place / "sender.key").read_bytes() != before
    assert "no name of a host" in predump("keys", "-o", tmp_path / "x", "--host", "höst", expect=2).stderr

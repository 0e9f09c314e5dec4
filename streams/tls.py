"""TLS 1.3, in which each side shows a certificate that the other one's CA file has to vouch for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from formats.errors import StorageError, UsageError
from streams.errors import StreamUntrusted


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files in PEM: the own certificate, its private key, and the CA that vouches for the other side."""

    cert: Path
    key: Path
    ca: Path


_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "its CA file does not vouch for the certificate of this side",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate of this side has expired or is not valid yet",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the certificate of this side was revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept the certificate of this side",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the certificate of this side is not for this purpose",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it finds name or key of this side's certificate wrong, or its time yet to come",
    "TLSV1_ALERT_ACCESS_DENIED": "it does not let this side in",
}
"""What OpenSSL calls the refusal of a certificate, for whoever gets to know of it."""


def receiver_context(credentials: Credentials) -> ssl.SSLContext:
    """For the side that listens. Raises UsageError, StorageError for files that do not do."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.num_tickets = 0  # sessions are resumed by us; on a data connection nothing ever comes from the receiver
    return context


def sender_context(credentials: Credentials) -> ssl.SSLContext:
    """For the side that connects, which checks the name of the host. Raises UsageError, StorageError."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, credentials)
    context.check_hostname = True
    context.hostname_checks_common_name = False
    return context


def distrust(error: ssl.SSLError, peer: str) -> StreamUntrusted | None:
    """The error to end with if it is one about certificates, None if the connection only broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return StreamUntrusted(
            f"The certificate of {peer} is not accepted: {why}.",
            hint="Check --ca, the names and the dates of the certificate (openssl x509 -text), and the address.",
        )
    if error.reason not in _REASONS:
        return None
    return StreamUntrusted(
        f"No connection with {peer}: {_REASONS[error.reason]}.",
        hint="Check --cert, --key and --ca on both hosts.",
    )


def _context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (credentials.cert, credentials.key, credentials.ca):
        _check_readable(path)
    try:
        context.load_verify_locations(cafile=credentials.ca)
    except ssl.SSLError as error:
        raise UsageError(f"{credentials.ca} is no CA certificate in PEM.", hint="Check --ca.") from error
    try:
        context.load_cert_chain(credentials.cert, credentials.key, password=_no_password)
    except ssl.SSLError as error:
        raise UsageError(
            f"{credentials.cert} and {credentials.key} are not a certificate and its key, in PEM.",
            hint="Check --cert and --key.",
        ) from error
    return context


def _no_password() -> str:
    raise UsageError("The private key is encrypted.", hint="Give --key a key without a password (openssl pkey).")


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise StorageError(
            f"Cannot read {path}: {error.strerror}.",
            hint="Check --cert, --key and --ca; 'predump keys' makes some to try it.",
            path=str(path),
            errno=error.errno or 0,
        ) from error

"""Certificates to try TLS with: a CA that exists for a moment, and one certificate with its key for each side."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from formats.errors import StorageError, UsageError
from formats.files import write_all
from formats.layout import DIRECTORY_MODE
from formats.wholefile import whole_file

VALID_DAYS = 30
CA_NAME, SENDER_NAME, RECEIVER_NAME = "ca", "sender", "receiver"
_CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Period:
    """When a certificate is valid."""

    begin: datetime.datetime
    end: datetime.datetime

    @classmethod
    def from_now(cls, days: int = VALID_DAYS) -> Period:
        """From now on, for so many days."""
        now = datetime.datetime.now(datetime.UTC)
        return cls(now - _CLOCK_SKEW, now + datetime.timedelta(days=days))


class Authority:
    """A CA whose private key is never written: it vouches for what is made with it, and for nothing later."""

    def __init__(self, period: Period) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("CA for tests")
        self._period = period
        self._certificate = (
            _builder(self._name, self._name, self._key.public_key(), period)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate_pem(self) -> bytes:
        """What the other side's --ca wants."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, role: str, hosts: Sequence[str], period: Period | None = None) -> tuple[bytes, bytes]:
        """Certificate and private key (PEM) of a sender, or of a receiver reached under these names and numbers."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if role == RECEIVER_NAME else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(self._name, _name(f"{role} for tests"), key.public_key(), period or self._period)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_host, hosts))), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def write_test_keys(directory: Path, hosts: Sequence[str], *, force: bool) -> list[Path]:
    """Writes ca.pem, sender.pem, sender.key, receiver.pem and receiver.key (0600); the paths.

    Raises UsageError if something is in the way and not `force`, StorageError.
    """
    authority = Authority(Period.from_now())
    files = {f"{CA_NAME}.pem": authority.certificate_pem}
    for role, names in ((SENDER_NAME, []), (RECEIVER_NAME, list(hosts))):
        files[f"{role}.pem"], files[f"{role}.key"] = authority.issue(role, names)
    try:
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        raise StorageError.from_os_error("create", directory, error) from error
    paths = [directory / name for name in files]
    if not force:
        for path in paths:  # before the first is written: they belong together
            if os.path.lexists(path):
                raise UsageError(f"{path} exists.", hint="Add --force to replace it, or name another directory.")
    for path, content in zip(paths, files.values(), strict=True):
        with whole_file(path, force=force) as (fd, temporary):
            write_all(fd, [content], temporary)
    return paths


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "predump, for tests only"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no name of a host.", hint="Write it as DNS has it, or as a number.") from error


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, period: Period
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(period.begin)
        .not_valid_after(period.end)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

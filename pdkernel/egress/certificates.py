"""
The project's certificate authority, the files that make steps trust it, and the roots that the gateway trusts.

The authority's key never leaves its folder and is never installed on the system: only the environment of steps refers to it.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.errors import ProjectError

if TYPE_CHECKING:
    import trustme

AUTHORITY_FILE = "authority.pem"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\r?\n?", re.DOTALL)
_MAX_CACHED_CONTEXTS = 256


class CertificateAuthority:
    """
    The certificate authority in a folder, and a server context for each host that a step calls.

    Attributes:
        folder: Contains `authority.pem` (key and certificate, mode 0600) and the files derived from it.
    """

    def __init__(self, folder: Path, *, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self._environ = environ
        self._authority: trustme.CA | None = None
        self._contexts: OrderedDict[tuple[str, ...], ssl.SSLContext] = OrderedDict()
        self._written = False

    @property
    def certificate_file(self) -> Path:
        """The authority's certificate alone."""
        self._write()
        return self.folder / "ca.pem"

    @property
    def bundle_file(self) -> Path:
        """Public roots, the user's own roots and the authority's certificate, as one file."""
        self._write()
        return self.folder / "bundle.pem"

    @property
    def wgetrc_file(self) -> Path:
        """A configuration for wget, which has no environment variable for certificates."""
        self._write()
        return self.folder / "wgetrc"

    def server_context(self, *hosts: str) -> ssl.SSLContext:
        """Return a TLS context of a server for *hosts*, HTTP/1.1 only."""
        context = self._contexts.get(hosts)
        if context is None:
            if self._authority is None:
                import trustme

                pem = self._load()
                self._authority = trustme.CA.from_pem(_certificates(pem), pem)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.set_alpn_protocols(["http/1.1"])
            self._issue(self._authority, *hosts).configure_cert(context)
            self._contexts[hosts] = context
            if len(self._contexts) > _MAX_CACHED_CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(hosts)
        return context

    def _issue(self, authority: trustme.CA, *hosts: str) -> trustme.LeafCert:
        """
        Issue a certificate for *hosts*, also for names that IDNA refuses, such as `my_bucket.example.com`.

        The chain has the authority, too: by its key a browser finds out that it may trust the certificate.
        """
        import trustme

        try:
            leaf = authority.issue_cert(*hosts)
            certificate = leaf.cert_chain_pems[0].bytes()
        except UnicodeError:
            leaf = authority.issue_cert("host.invalid")
            certificate = _renamed(leaf.cert_chain_pems[0].bytes(), hosts, authority.private_key_pem.bytes())
        return trustme.LeafCert(leaf.private_key_pem.bytes(), certificate, [authority.cert_pem.bytes()])

    def _load(self) -> bytes:
        """Key and certificate; the first process that needs them creates them."""
        file = self.folder / AUTHORITY_FILE
        if not file.exists():
            import trustme

            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            authority = trustme.CA(
                organization_name="pdkernel", organization_unit_name="outbound calls of this project"
            )
            _write_new(file, authority.private_key_pem.bytes() + authority.cert_pem.bytes())
        pem = file.read_bytes()
        if b"PRIVATE KEY-----" not in pem or not _certificates(pem):
            raise ProjectError(
                f"{file} is damaged: the key or the certificate is missing.",
                fix="Delete the file; the next run creates a new one.",
            )
        return pem

    def _write(self) -> None:
        if self._written:
            return
        try:
            certificate = _certificates(self._load())
            _write(self.folder / "ca.pem", certificate)
            _write(self.folder / "bundle.pem", public_roots(self._environ) + certificate)
            _write(self.folder / "wgetrc", f"ca_certificate = {self.folder / 'bundle.pem'}\n".encode())
        except OSError as error:
            raise ProjectError(
                f"The certificates for outbound calls cannot be written to {self.folder}: {error.strerror or error}.",
                fix="Make the folder writable, or pass another project with --project.",
            ) from error
        self._written = True


def _renamed(pem: bytes, hosts: Iterable[str], authority_key: bytes) -> bytes:
    """Return the certificate *pem* for *hosts* instead of its own, signed with *authority_key*."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = x509.load_pem_x509_certificate(pem)
    builder = x509.CertificateBuilder(
        made.issuer,
        made.subject,
        made.public_key(),
        made.serial_number,
        made.not_valid_before_utc,
        made.not_valid_after_utc,
    )
    for extension in made.extensions:
        has_names = isinstance(extension.value, x509.SubjectAlternativeName)
        value = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]) if has_names else extension.value
        builder = builder.add_extension(value, extension.critical)
    key = serialization.load_pem_private_key(authority_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # the kind that trustme makes
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def upstream_context(environ: Mapping[str, str], extra: Iterable[Path]) -> ssl.SSLContext:
    """Return a TLS context of a client that trusts public roots, the user's own (`SSL_CERT_FILE`), and *extra*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=public_roots(environ).decode())
    for file in extra:
        context.load_verify_locations(file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def public_roots(environ: Mapping[str, str]) -> bytes:
    """Return the roots of certifi, and those of the user's `SSL_CERT_FILE` if the file exists, as PEM."""
    import certifi

    files = [Path(certifi.where())]
    if (own := environ.get("SSL_CERT_FILE", "")) and Path(own).is_file():
        files.append(Path(own))
    found = ((file, file.stat()) for file in files)
    return b"".join(_read_certificates(file, state.st_mtime_ns, state.st_size) for file, state in found)


@lru_cache(maxsize=8)  # every engine of a process needs them, and finding them in the text takes milliseconds
def _read_certificates(file: Path, _modified_ns: int, _size: int) -> bytes:
    """Return the certificates of *file*, which had this time of modification and this size."""
    return _certificates(file.read_bytes())


def _certificates(pem: bytes) -> bytes:
    return b"".join(found.rstrip() + b"\n" for found in _CERTIFICATE.findall(pem))


def _write_new(file: Path, content: bytes) -> None:
    """Write *file* with mode 0600, unless another process has written it first."""
    temporary = _temporary(file, content)
    try:
        os.link(temporary, file)
    except FileExistsError:
        return
    finally:
        temporary.unlink()


def _write(file: Path, content: bytes) -> None:
    """Write *file*, which has no secret: processes of other users may read it."""
    if not file.exists() or file.read_bytes() != content:
        temporary = _temporary(file, content)
        temporary.chmod(0o644)
        temporary.replace(file)


def _temporary(file: Path, content: bytes) -> Path:
    """Create a temporary file of mode 0600 beside *file* with *content*."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
    return Path(name)

"""
The environment that leads a step's programs to the gateway.

Knows which client reads which variable. Knows nothing of connections.
"""

from __future__ import annotations

from pathlib import Path

from pdkernel.egress.tls.certificates import CertificateAuthority
from pdkernel.model import Language

NODE_HOOK = Path(__file__).parent.parent / "runtimes" / "node" / "egress_hook.mjs"
PYTHON_HOOK = Path(__file__).parent.parent / "runtimes" / "python" / "egress_hook.py"

NO_PROXY_HOSTS = "localhost,127.0.0.1,127.0.0.0/8,::1"


def build_gateway_environment(
    *, port: int, token: str, language: Language, authority: CertificateAuthority, public_only: bool = False
) -> dict[str, str]:
    """
    The environment for a process of a step.

    The proxy variables in lower case are the one set that every client reads; wget reads no other, and
    only `WGETRC` tells it of a certificate. Node reads `NODE_EXTRA_CA_CERTS` at its start and adds it to its
    own roots, so it gets the project's certificate alone. `NODE_USE_ENV_PROXY` is read by Node 24 only.

    Args:
        port: Of the gateway, on 127.0.0.1.
        token: The process's ticket.
        language: Of the step. A step in any language may start Node, so all get the hook; the variables
            that the Python hook reads are among them.
        authority: The project's certificates.
        public_only: Lead connections to this machine to the gateway, too, which refuses them.
    """
    proxy = f"http://{token}:x@127.0.0.1:{port}"
    bundle = str(authority.bundle_file)
    environment = {
        "NODE_EXTRA_CA_CERTS": str(authority.certificate_file),
        "NODE_USE_ENV_PROXY": "1",
        "NODE_OPTIONS": f"--import {NODE_HOOK.as_uri()}",
        "PDK_EGRESS": f"127.0.0.1:{port}",
        "PDK_TICKET": token,
        "WGETRC": str(authority.wgetrc_file),
        "GRPC_DNS_RESOLVER": "native",  # the system's resolver; its own takes no answer from another address
    }
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        environment[name] = environment[name.upper()] = proxy
    environment["no_proxy"] = environment["NO_PROXY"] = "" if public_only else NO_PROXY_HOSTS
    if public_only:
        environment["PDK_EGRESS_ALL"] = "1"
    for name in (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "AWS_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    ):
        environment[name] = bundle
    if language == "go":
        # Go's own programs are ours to build, and Go reads SSL_CERT_FILE on Linux only.
        environment["PD_PROXY"], environment["PD_CA"] = proxy, str(authority.certificate_file)
    return environment

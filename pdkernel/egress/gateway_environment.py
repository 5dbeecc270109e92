"""Environment variables that route a step's programs to the gateway."""

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
    Environment variables for a process of a step.

    Every client reads the proxy variables in lower case; wget reads only those, and takes a certificate
    only from `WGETRC`. Node reads `NODE_EXTRA_CA_CERTS` at its start and adds it to its
    own roots, so it gets the project's certificate alone. `NODE_USE_ENV_PROXY` is read by Node 24 only.

    Args:
        port: Port of the gateway on 127.0.0.1.
        token: The token of the process.
        language: Language of the step. A step in any language may start Node.js, so the variables of the Node.js and
            Python hooks are always set.
        authority: The project's certificates.
        public_only: Also route connections to this machine to the gateway, which refuses them.
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
        "GRPC_DNS_RESOLVER": "native",  # the system's resolver: gRPC's own rejects replies of the sandbox's name server
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
        # pdkernel builds the Go program of a step, and Go reads SSL_CERT_FILE on Linux only.
        environment["PD_PROXY"], environment["PD_CA"] = proxy, str(authority.certificate_file)
    return environment

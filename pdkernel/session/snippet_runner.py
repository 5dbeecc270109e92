"""
Snippets that are run: each against the endpoint that it names, with a client of its own.

Knows how each kind is started and what it needs. A tick is for a program that ended with success, and for nothing else.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from pdkernel.errors import InterpreterMissingError, PdkernelError
from pdkernel.identity import Environment
from pdkernel.invoke import TOKEN_PATH, resolve_token_url
from pdkernel.model import JSON
from pdkernel.packages.npm_packages import NpmPackages, NpmSpec
from pdkernel.project import Project
from pdkernel.render.snippets import (
    CLIENT_ID_VARIABLE,
    CLIENT_SECRET_VARIABLE,
    SDK_VERSIONS,
    WORKFLOW_TOKEN_VARIABLE,
    Invocation,
    Snippet,
)
from pdkernel.workers import find_node

SNIPPET_TIMEOUT_S = 60.0
_SDK = "@pipedream/sdk"
_MAX_ERROR_CHARACTERS = 300
_INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")


def build_invocation(
    url: str,
    *,
    external_user_id: str,
    environment: Environment,
    project_id: str,
    body: JSON,
    method: str = "POST",
    query: Sequence[tuple[str, str]] = (),
    uses_bearer_token: bool = False,
) -> Invocation:
    """What snippets for the endpoint at *url* do; the other arguments are `Invocation`'s. A POST always has a body."""
    parts = urlsplit(url)
    return Invocation(
        parts._replace(query="").geturl(),  # the SDKs take it apart
        external_user_id,
        environment,
        project_id,
        {} if body is None and method == "POST" else body,
        resolve_token_url(url).removesuffix(TOKEN_PATH),
        method,
        (*parse_qsl(parts.query, keep_blank_values=True), *query),
        uses_bearer_token,
    )


@contextmanager
def temporary_client(project: Project) -> Iterator[tuple[str, str]]:
    """Id and secret of an OAuth client of *project* for as long as snippets run; it is removed after."""
    made = project.oauth_clients.create("snippets")
    try:
        yield made.client.id, made.secret
    finally:
        project.oauth_clients.remove(made.client.id)


@dataclass(frozen=True)
class SnippetRunner:
    """
    Runs snippets.

    Attributes:
        packages_folder: A folder where the SDKs for Node.js are installed.
        client_id: An OAuth client that the endpoint knows.
        client_secret: Its secret.
        token: The endpoint's own, where it asks for one, or None.
        ca_file: The certificate authority of the endpoint, or None.
        environ: Of npm and of programs.
        timeout_s: Seconds for each.
        progress: Told what is installed.
    """

    packages_folder: Path
    client_id: str
    client_secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    timeout_s: float = SNIPPET_TIMEOUT_S
    progress: Callable[[str], None] = lambda _: None

    async def run(self, snippets: tuple[Snippet, ...], invocation: Invocation) -> tuple[Snippet, ...]:
        """The same snippets, each with whether it succeeded, one after the other."""
        return tuple([await self._run(snippet, invocation) for snippet in snippets])

    async def _run(self, snippet: Snippet, call: Invocation) -> Snippet:
        if snippet.problem:  # it does not make this call
            return snippet
        if snippet.kind == "typescript-1" and not call.api_url.startswith("https:"):
            return replace(snippet, problem="this SDK speaks HTTPS only: pdkernel serve --tls")
        with tempfile.TemporaryDirectory(prefix="pdkernel-snippet-") as folder:
            try:
                argv = await self._command(snippet, Path(folder))
            except PdkernelError as missing:
                return replace(snippet, problem=missing.message)
            status, output = await self._run_process(argv, Path(folder))
        if status == 0:
            return replace(snippet, succeeded=True, problem="")
        return replace(snippet, succeeded=False, problem=self._extract_error(output) or f"it ended with {status}")

    async def _command(self, snippet: Snippet, folder: Path) -> list[str]:
        if snippet.kind == "curl":
            bash = shutil.which("bash")
            if bash is None or shutil.which("curl") is None:
                raise InterpreterMissingError("It needs bash and curl, which are not both here.")
            return [bash, str(_write_file(folder / "call.sh", snippet.code))]
        if snippet.kind == "python":
            return [sys.executable, str(_write_file(folder / "call.py", snippet.code))]
        node = find_node()
        npm = NpmPackages(
            self.packages_folder, lock=self.packages_folder / "lock.json", node=find_node, environ=self.environ
        )
        spec = NpmSpec(_SDK, SDK_VERSIONS[snippet.kind])
        tree = await npm.ensure([spec], progress=self.progress)
        link = folder / "node_modules" / _SDK
        link.parent.mkdir(parents=True)
        link.symlink_to(tree.folder / "node_modules" / tree.aliases[str(spec)], target_is_directory=True)
        # what is TypeScript in it is nothing but the module's name: Node.js runs it as it is
        return [str(node), str(_write_file(folder / "call.mjs", snippet.code))]

    async def _run_process(self, argv: list[str], folder: Path) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env=self._variables(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), self.timeout_s)
        except (TimeoutError, asyncio.CancelledError) as end:
            os.killpg(process.pid, signal.SIGKILL)  # a shell's programs with it
            await process.wait()
            if isinstance(end, asyncio.CancelledError):
                raise
            return 1, f"It took longer than {self.timeout_s:g} seconds."
        return process.returncode or 0, output.decode("utf-8", "replace")

    def _variables(self) -> dict[str, str]:
        kept = {name: self.environ[name] for name in _INHERITED_VARIABLES if name in self.environ}
        trust = str(self.ca_file) if self.ca_file else None
        trusted = dict.fromkeys(("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), trust) if trust else {}
        own = {
            CLIENT_ID_VARIABLE: self.client_id,
            CLIENT_SECRET_VARIABLE: self.client_secret,
            "NO_PROXY": "127.0.0.1,localhost,::1",
        }
        token = {WORKFLOW_TOKEN_VARIABLE: self.token} if self.token else {}
        return {**kept, **{name: value for name, value in trusted.items() if value}, **own, **token}

    def _extract_error(self, output: str) -> str:
        hidden = output.replace(self.client_secret, "***")
        if self.token:
            hidden = hidden.replace(self.token, "***")
        found = [line.strip() for line in hidden.splitlines() if line.strip()]
        # where it stood ("at ...") may speak of errors, too
        telling = [line for line in found if "rror" in line and not line.startswith("at ")] or found
        words = telling[-1:] + [line.rstrip(",") for line in found if line.startswith("statusCode:")]  # SDK 3.x's
        return ", ".join(words)[:_MAX_ERROR_CHARACTERS]


def _write_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path

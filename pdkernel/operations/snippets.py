"""
Programs that call a workflow's endpoint: the call, and the runs of the programs. `render.snippets` writes the programs.

A snippet is marked as successful only if its program exited with status 0.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from pdkernel.common.blocking import run_blocking
from pdkernel.errors import InterpreterMissingError, PdkernelError
from pdkernel.operations.invocation import TOKEN_PATH, ClientCredentials, InvokeRequest, resolve_token_url
from pdkernel.packages.npm_packages import NpmPackages, NpmSpec
from pdkernel.render.snippets import (
    CLIENT_ID_VARIABLE,
    CLIENT_SECRET_VARIABLE,
    SDK_VERSIONS,
    WORKFLOW_TOKEN_VARIABLE,
    Invocation,
    Snippet,
)
from pdkernel.storage import Project
from pdkernel.workers import find_node

SNIPPET_TIMEOUT_S = 60.0
NO_USER_MESSAGE = "Snippets invoke a workflow for an external user, and none is chosen."
_SDK = "@pipedream/sdk"
_MAX_ERROR_CHARACTERS = 300
_INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")


def build_invocation(request: InvokeRequest, *, external_user_id: str, project_id: str) -> Invocation:
    """The call of snippets that send *request* for an external user of a project. A POST always has a body."""
    parts = urlsplit(request.url)
    return Invocation(
        parts._replace(query="").geturl(),  # the SDKs pass the query separately
        external_user_id,
        request.environment,
        project_id,
        {} if request.body is None and request.method == "POST" else request.body,
        resolve_token_url(request.url).removesuffix(TOKEN_PATH),
        request.method,
        (*parse_qsl(parts.query, keep_blank_values=True), *request.query),
        request.bearer is not None,
    )


async def run_snippets(
    project: Project,
    invocation: Invocation,
    snippets: tuple[Snippet, ...],
    *,
    client: ClientCredentials | None,
    token: str | None = None,
    ca_file: Path | None = None,
    timeout_s: float = SNIPPET_TIMEOUT_S,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Snippet, ...]:
    """
    Run *snippets* in turn; returns the snippets with their results.

    Args:
        project: The project; its folder has the SDKs for Node.js.
        invocation: The call.
        snippets: The programs that make the call.
        client: An OAuth client of the endpoint's project; None creates a client of *project* for these runs.
        token: The bearer token of the workflow, if the endpoint requires a token; else None.
        ca_file: The certificate authority of the endpoint, or None.
        timeout_s: Time limit of each program, in seconds.
        progress: Called with a message for each installation.
    """
    of_client: AbstractAsyncContextManager[tuple[str, str]] = (
        nullcontext((client.id, client.secret)) if client else _temporary_client(project)
    )
    async with of_client as (client_id, secret):
        runner = SnippetRunner(
            project.folder / "packages" / "snippets",
            client_id,
            secret,
            token=token,
            ca_file=ca_file,
            timeout_s=timeout_s,
            progress=progress,
        )
        return await runner.run(snippets, invocation)


@asynccontextmanager
async def _temporary_client(project: Project) -> AsyncIterator[tuple[str, str]]:
    """Id and secret of a new OAuth client of *project*; the client is removed at the end."""
    made = await run_blocking(project.oauth_clients.create, "snippets")
    try:
        yield made.client.id, made.secret
    finally:
        await run_blocking(project.oauth_clients.remove, made.client.id)


@dataclass(frozen=True)
class SnippetRunner:
    """
    Runs snippets.

    Attributes:
        packages_folder: The folder for the SDKs for Node.js.
        client_id: The id of an OAuth client of the endpoint's project.
        client_secret: The OAuth client's secret.
        token: The bearer token of the workflow, if the endpoint requires a token; else None.
        ca_file: The certificate authority of the endpoint, or None.
        environ: Environment variables for npm and the programs.
        timeout_s: Time limit of each program, in seconds.
        progress: Called with a message for each installation.
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
        """Run the snippets in turn; returns them with their results."""
        return tuple([await self._run(snippet, invocation) for snippet in snippets])

    async def _run(self, snippet: Snippet, call: Invocation) -> Snippet:
        if snippet.problem:  # the snippet cannot make this call
            return snippet
        if snippet.kind == "typescript-1" and not call.api_url.startswith("https:"):
            return replace(snippet, problem="this SDK supports HTTPS only: pdkernel serve --tls")
        with tempfile.TemporaryDirectory(prefix="pdkernel-snippet-") as folder:
            try:
                argv = await self._command(snippet, Path(folder))
            except PdkernelError as missing:
                return replace(snippet, problem=missing.message)
            status, output = await self._run_process(argv, Path(folder))
        if status == 0:
            return replace(snippet, succeeded=True, problem="")
        return replace(
            snippet, succeeded=False, problem=self._extract_error(output) or f"it exited with status {status}"
        )

    async def _command(self, snippet: Snippet, folder: Path) -> list[str]:
        if snippet.kind == "curl":
            bash = shutil.which("bash")
            if bash is None or shutil.which("curl") is None:
                raise InterpreterMissingError(
                    "The snippet requires bash and curl, and at least one of them is not installed.",
                    fix="Install bash and curl.",
                )
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
        # the TypeScript snippet uses no TypeScript syntax: Node.js runs it as it is
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
            os.killpg(process.pid, signal.SIGKILL)  # the whole process group, including a shell's children
            await process.wait()
            if isinstance(end, asyncio.CancelledError):
                raise
            return 1, f"The program took longer than {self.timeout_s:g} seconds."
        return process.returncode or 0, output.decode("utf-8", "replace")

    def _variables(self) -> dict[str, str]:
        inherited = {name: self.environ[name] for name in _INHERITED_VARIABLES if name in self.environ}
        trust = str(self.ca_file) if self.ca_file else None
        trusted = dict.fromkeys(("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), trust) if trust else {}
        own = {
            CLIENT_ID_VARIABLE: self.client_id,
            CLIENT_SECRET_VARIABLE: self.client_secret,
            "NO_PROXY": "127.0.0.1,localhost,::1",
        }
        token = {WORKFLOW_TOKEN_VARIABLE: self.token} if self.token else {}
        return {**inherited, **{name: value for name, value in trusted.items() if value}, **own, **token}

    def _extract_error(self, output: str) -> str:
        redacted = output.replace(self.client_secret, "***")
        if self.token:
            redacted = redacted.replace(self.token, "***")
        found = [line.strip() for line in redacted.splitlines() if line.strip()]
        # stack lines ("at ...") may contain the word error as well
        errors = [line for line in found if "rror" in line and not line.startswith("at ")] or found
        words = errors[-1:] + [line.rstrip(",") for line in found if line.startswith("statusCode:")]  # SDK 3.x's
        return ", ".join(words)[:_MAX_ERROR_CHARACTERS]


def _write_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path

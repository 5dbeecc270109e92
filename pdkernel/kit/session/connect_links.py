"""
Links where a person connects an account, and the listeners for their events.

The draft's server answers a link while it runs. Otherwise a server for link pages alone starts with the first link and
stops with the session. With a remote project, Pipedream makes and answers the link.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pdkernel.common.identity import Environment
from pdkernel.common.loop_thread import LoopThread
from pdkernel.errors import PdkernelError

if TYPE_CHECKING:
    from pdkernel.accounts.remote import RemoteDirectory
    from pdkernel.kit.session.engine_thread import LazyProject
    from pdkernel.server.app_context import AppContext, LinkContext, LinkEvent, LinkOnlyContext
    from pdkernel.server.uvicorn_server import UvicornServer

LINK_LIFETIME_S = 15 * 60.0
"""Seconds for which a link from a notebook is valid."""
ACCOUNT_POLL_INTERVAL_S = 3.0
"""Seconds between two queries to Pipedream for the new account."""

LinkListener = Callable[["LinkEvent"], None]


class ConnectLinks:
    """
    The links of one session. Safe from any thread.

    Args:
        local: The notebook's project and external users.
        app_context: Returns the context of the draft's own server while it runs, else None.
        public_url: The servers' URL for browsers on other machines, with `{port}` for the port; None for loopback.
        poll_interval_s: Seconds between two queries to Pipedream for the new account.
    """

    def __init__(
        self,
        local: LazyProject,
        *,
        app_context: Callable[[], AppContext | None],
        public_url: str | None = None,
        poll_interval_s: float = ACCOUNT_POLL_INTERVAL_S,
    ) -> None:
        self._local = local
        self._app_context = app_context
        self._public_url = public_url
        self._poll_interval_s = poll_interval_s
        self._lock = threading.Lock()
        self._listeners: dict[str, LinkListener] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._server: LinkPageServer | None = None
        self._closed = threading.Event()

    def create(
        self,
        app: str,
        *,
        external_user_id: str,
        environment: Environment,
        account_id: str | None = None,
        on_event: LinkListener,
        lifetime_s: float = LINK_LIFETIME_S,
    ) -> str:
        """
        Return a link where the external user connects an account of *app*, or reconnects the account *account_id*.

        The link works once. The link is a secret.

        Args:
            app: The app's slug.
            external_user_id: The account's external user.
            environment: The external user's environment.
            account_id: The account to reconnect; None for a new account.
            on_event: Called with each event of the link, from another thread.
            lifetime_s: Seconds for which the link is valid; for Pipedream's links, seconds in which the account is awaited.

        Raises:
            PdkernelError: The external user's id is invalid, or Pipedream refused to make a link.
        """
        from pdkernel.accounts.remote import RemoteDirectory

        directory = self._local.directory
        if isinstance(directory, RemoteDirectory):
            url = self._create_remote_link(directory, app, external_user_id, environment, account_id)
            if account_id is None:  # a reconnected account does not change the list of accounts
                watched = (directory, app, external_user_id, environment, on_event, lifetime_s)
                threading.Thread(target=self._poll_for_account, args=watched, name="pdkernel-link", daemon=True).start()
            return url
        from pdkernel.server.link.tokens import create_link

        made = create_link(
            self._link_site(),
            external_user_id=external_user_id,
            environment=environment,
            app=app,
            account_id=account_id,
            lifetime_s=lifetime_s,
        )
        timer = threading.Timer(lifetime_s, self._expire, (made.digest,))
        timer.daemon = True
        with self._lock:
            self._listeners[made.digest] = on_event
            self._timers[made.digest] = timer
        timer.start()
        return made.url

    def handle_event(self, event: LinkEvent) -> None:
        """Pass a link's event to the listener of the link; from any thread."""
        is_final = event.status not in ("opened", "failed")  # after a failure the same link can be used again
        with self._lock:
            listener = (
                self._listeners.pop(event.token_digest, None) if is_final else self._listeners.get(event.token_digest)
            )
            timer = self._timers.pop(event.token_digest, None) if is_final else None
        if timer is not None:
            timer.cancel()
        if listener is not None:
            listener(event)

    def close(self) -> None:
        """Stop the link server and forget every link."""
        self._closed.set()
        with self._lock:
            server, self._server = self._server, None
            timers = list(self._timers.values())
            self._timers.clear()
            self._listeners.clear()
        for timer in timers:
            timer.cancel()
        if server is not None:
            server.stop()

    def _link_site(self) -> LinkContext:
        app_context = self._app_context()
        if app_context is not None:
            return app_context
        with self._lock:
            if self._server is None:
                self._server = LinkPageServer(self._local, public_url=self._public_url, on_link=self.handle_event)
            return self._server.site

    def _expire(self, token: str) -> None:
        from pdkernel.server.app_context import LinkEvent

        self.handle_event(LinkEvent(token, "expired"))

    def _create_remote_link(
        self,
        directory: RemoteDirectory,
        app: str,
        external_user_id: str,
        environment: Environment,
        account_id: str | None,
    ) -> str:
        link = directory.connect_link(external_user_id, environment)
        query = urlencode({"app": app, **({"accountId": account_id} if account_id else {})})
        return f"{link}{'&' if '?' in link else '?'}{query}"

    def _poll_for_account(
        self,
        directory: RemoteDirectory,
        app: str,
        external_user_id: str,
        environment: Environment,
        on_event: LinkListener,
        lifetime_s: float,
    ) -> None:
        """Query the accounts until the new account exists or the link has expired."""
        from pdkernel.server.app_context import LinkEvent

        before: set[str] | None = None
        for _ in range(round(lifetime_s / self._poll_interval_s)):
            try:
                now = directory.fetch_account_ids(app, external_user_id, environment)
                before = now if before is None else before
                if new := now - before:
                    directory.clear_cache()  # for the reader of the event
                    on_event(LinkEvent("", "connected", min(new)))
                    return
            except PdkernelError:  # the next query repeats the request
                pass
            if self._closed.wait(self._poll_interval_s):
                return
        on_event(LinkEvent("", "expired"))


class LinkPageServer:
    """
    Serves the pages of Connect Link on this machine. The server starts when this object is created.

    Attributes:
        site: The context of the pages' handlers.

    Raises:
        InternalError: The server did not start.
    """

    site: LinkOnlyContext

    def __init__(self, local: LazyProject, *, public_url: str | None, on_link: LinkListener) -> None:
        self._loop = LoopThread()
        try:
            self._loop.run(self._start(local, public_url, on_link))
        except BaseException:
            self._loop.close()
            raise

    def stop(self) -> None:
        """Stop the server."""
        self._loop.run(self._stop())
        self._loop.close()

    async def _start(self, local: LazyProject, public_url: str | None, on_link: LinkListener) -> None:
        from pdkernel.egress import parse_policy
        from pdkernel.server import ServeSettings
        from pdkernel.server.app import create_link_app
        from pdkernel.server.app_context import LinkOnlyContext
        from pdkernel.server.host_names import build_base_url
        from pdkernel.server.uvicorn_server import UvicornServer, listen

        project = local.project
        with ExitStack() as stack:
            opened = stack.enter_context(listen("127.0.0.1", 0))
            url = build_base_url(opened.getsockname()[1], public_url)
            settings = ServeSettings(base_url=url, policy=parse_policy("deny"))
            self.site = LinkOnlyContext(project, local.directory, settings, project.clock, project.ids, on_link)
            self._server: UvicornServer = UvicornServer(create_link_app(self.site))
            self._serving = await self._server.start(opened)
            stack.pop_all()  # the server closes the socket

    async def _stop(self) -> None:
        self._server.force_exit = True
        self._server.stop()
        await self._serving

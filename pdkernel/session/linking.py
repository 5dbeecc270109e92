"""
Links where a person connects an account, made from the notebook, and what becomes of them.

Knows who serves such a link: the draft's own server while it runs, else one for link pages alone, which starts with the
first link and ends with the session; with a real project, Pipedream. What the pages do is the server's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pdkernel.errors import PdkernelError
from pdkernel.identity import Environment
from pdkernel.session.loop import LoopThread

if TYPE_CHECKING:
    from pdkernel.connect.remote import RemoteDirectory
    from pdkernel.server.serving import Linking, LinkNews, LinkSite
    from pdkernel.server.sockets import PageServer
    from pdkernel.session.session import Session

LASTS_S = 15 * 60.0
"""Seconds that a link from a notebook is good for."""
POLL_S = 3.0
"""Seconds between two looks at Pipedream for the new account."""

Told = Callable[["LinkNews"], None]


class Links:
    """
    The links of one session. Safe from any thread.

    Args:
        session: Whose project and people.
        public_url: What a browser elsewhere calls our servers, `{port}` standing for the port; None: this machine's own.
    """

    def __init__(self, session: Session, *, public_url: str | None = None) -> None:
        self._session = session
        self._public_url = public_url
        self._lock = threading.Lock()
        self._told: dict[str, Told] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._server: LinkServer | None = None
        self._closed = threading.Event()

    def open(
        self,
        app: str,
        *,
        external_user_id: str,
        environment: Environment,
        account_id: str | None = None,
        told: Told,
        lasts_s: float = LASTS_S,
    ) -> str:
        """
        A link where that user connects an account of *app*, or the one of *account_id* anew. It is good once; show it to nobody.

        Args:
            app: The app's slug.
            external_user_id: Whose account it will be.
            environment: Theirs.
            account_id: The account that keeps its id; None for a new one.
            told: Told what becomes of the link, from another thread.
            lasts_s: Seconds for which it is good; Pipedream's last as long as Pipedream says.

        Raises:
            PdkernelError: The user's id cannot be used, or Pipedream makes no link.
        """
        from pdkernel.connect.remote import RemoteDirectory

        directory = self._session.directory
        if isinstance(directory, RemoteDirectory):
            return self._at_pipedream(directory, app, external_user_id, environment, account_id, told)
        from pdkernel.server.link.tokens import make_link

        made = make_link(
            self._served(),
            external_user_id=external_user_id,
            environment=environment,
            app=app,
            account_id=account_id,
            lasts_s=lasts_s,
        )
        timer = threading.Timer(lasts_s, self._expire, (made.digest,))
        timer.daemon = True
        with self._lock:
            self._told[made.digest] = told
            self._timers[made.digest] = timer
        timer.start()
        return made.url

    def news(self, news: LinkNews) -> None:
        """Hand what became of a link on to whoever made it; from any thread."""
        over = news.what not in ("opened", "failed")  # after a failure the same link can be used again
        with self._lock:
            told = self._told.pop(news.token, None) if over else self._told.get(news.token)
            timer = self._timers.pop(news.token, None) if over else None
        if timer is not None:
            timer.cancel()
        if told is not None:
            told(news)

    def close(self) -> None:
        """Serve no link any more."""
        self._closed.set()
        with self._lock:
            server, self._server = self._server, None
            timers = list(self._timers.values())
            self._timers.clear()
            self._told.clear()
        for timer in timers:
            timer.cancel()
        if server is not None:
            server.stop()

    def _served(self) -> Linking:
        serving = self._session.serving
        if serving is not None:
            return serving
        with self._lock:
            if self._server is None:
                self._server = LinkServer(self._session, public_url=self._public_url, on_link=self.news)
            return self._server.site

    def _expire(self, token: str) -> None:
        from pdkernel.server.serving import LinkNews

        self.news(LinkNews(token, "expired"))

    def _at_pipedream(
        self,
        directory: RemoteDirectory,
        app: str,
        external_user_id: str,
        environment: Environment,
        account_id: str | None,
        told: Told,
    ) -> str:
        link = directory.connect_link(external_user_id, environment)
        query = urlencode({"app": app, **({"accountId": account_id} if account_id else {})})
        if account_id is None:  # what is connected again looks as before, in a list
            watched = (directory, app, external_user_id, environment, told)
            threading.Thread(target=self._watch, args=watched, name="pdkernel-link", daemon=True).start()
        return f"{link}{'&' if '?' in link else '?'}{query}"

    def _watch(
        self, directory: RemoteDirectory, app: str, external_user_id: str, environment: Environment, told: Told
    ) -> None:
        """Look for the new account until it is there or the link's time is over."""
        from pdkernel.server.serving import LinkNews

        def ids() -> set[str]:
            directory.look_again()
            found = directory.accounts(external_user_id=external_user_id, environment=environment, app=app)
            return {account.id for account in found}

        before: set[str] | None = None
        for _ in range(round(LASTS_S / POLL_S)):
            try:
                now = ids()
                before = now if before is None else before
                if new := now - before:
                    told(LinkNews("", "connected", min(new)))
                    return
            except PdkernelError:  # asked again in a moment
                pass
            if self._closed.wait(POLL_S):
                return
        told(LinkNews("", "expired"))


class LinkServer:
    """
    Serves the pages of Connect Link on this machine, from now on.

    Attributes:
        site: What the pages are given.
    """

    site: LinkSite

    def __init__(self, session: Session, *, public_url: str | None, on_link: Told) -> None:
        self._loop = LoopThread()
        self._loop.run(self._start(session, public_url, on_link))

    def stop(self) -> None:
        """Serve them no more."""
        self._loop.run(self._stop())
        self._loop.close()

    async def _start(self, session: Session, public_url: str | None, on_link: Told) -> None:
        from pdkernel.egress import parse_mode
        from pdkernel.server import ServeSettings
        from pdkernel.server.app import create_link_app
        from pdkernel.server.serving import LinkSite
        from pdkernel.server.sockets import PageServer, bind

        opened = bind("127.0.0.1", 0)
        project = session.project
        try:
            url = base_url(opened.getsockname()[1], public_url)
        except BaseException:
            opened.close()
            raise
        settings = ServeSettings(url=url, policy=parse_mode("deny"))
        self.site = LinkSite(project, session.directory, settings, project.clock, project.ids, on_link)
        ready = asyncio.Event()
        self._server: PageServer = PageServer(create_link_app(self.site), on_ready=ready.set)
        self._serving = asyncio.ensure_future(self._server.serve(sockets=[opened]))
        await ready.wait()

    async def _stop(self) -> None:
        self._server.force_exit = True
        self._server.stop()
        await self._serving


def base_url(port: int, public_url: str | None) -> str:
    """
    What callers call a server of ours on that port of this machine; `{port}` in *public_url* is the port.

    Raises:
        RequestError: *public_url* is no base of URLs.
    """
    if public_url:
        from pdkernel.server.hosts import public_base

        return public_base(public_url.replace("{port}", str(port)))
    return f"http://127.0.0.1:{port}"

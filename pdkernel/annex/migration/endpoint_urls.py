"""
The URLs at which workflows of a project call each other: whose they are, what takes their place, and where they are in a text.

A URL of an endpoint is `https://KEY.m.pipedream.net`, or `https://KEY.` before a domain of the team (the platform's documentation of custom
domains). Only this base of a URL is looked at and replaced, so a path or a query, which may hold a token, is never read or printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.common.identity import PIPEDREAM_ENDPOINT_DOMAIN
from pdkernel.errors import RequestError
from pdkernel.files.source import is_workflow_called
from pdkernel.model import ROUND_TRIP_KEY
from pdkernel.operations.triggers import ensure_endpoint_key
from pdkernel.storage import Project

UrlState = Literal["rewrite", "unknown", "no endpoint", "by hand", "ends", "other file"]
"""What becomes of a URL; all but `rewrite` stay as they are."""
_ENDPOINT_DOMAINS = (PIPEDREAM_ENDPOINT_DOMAIN, "m.d.pipedream.net")
_PLATFORM = re.compile(r"(?:^|\.)pipedream\.(?:net|com)\Z")
_PAUSING = re.compile(r"(?:^|\.)pipedream\.net\Z|api\.pipedream\.com\Z")
_KEY = re.compile(r"e[no][a-z0-9-]+\Z")
_URL = re.compile(
    r"https?(?P<separator>://|:\\/\\/|%3A%2F%2F)(?P<host>[A-Za-z0-9.-]++)(?P<port>:\d{1,5}(?!\d))?", re.IGNORECASE
)
_DOMAIN = re.compile(r"(?<![A-Za-z0-9-])m\.(?:d\.)?pipedream\.net(?![A-Za-z0-9-]|\.[A-Za-z])", re.IGNORECASE)
_KEY_LETTER = re.compile("[A-Za-z0-9-]")
_LABEL = re.compile(r"([A-Za-z0-9-]+)\.\Z")
_MAX_LABEL = 64
_PAUSED_PATH = re.compile(r"[^\s\"'<>]{0,300}?\b(?:resume|cancel)", re.IGNORECASE)
_PAUSED_NAMES = ("resume_url", "cancel_url")
_BASE = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~/-]*)?\Z")
ENDS = "Pipedream made it for a run that is paused there. It ends with Pipedream, and cannot be moved."
_UNKNOWN = "No workflow is known by this URL."
_BUILT = "It looks built at run time: change the code by hand."
_BARE = "It is a host without https://: change it by hand."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    The endpoint of a workflow at Pipedream, and its URL here.

    Attributes:
        workflow: The workflow's name.
        url: The URL here, or None if the workflow has no endpoint here.
        reason: Why there is none, as a sentence.
    """

    workflow: str
    url: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UrlMatch:
    """
    A URL of an endpoint in a text, or what looks like a part of one.

    Attributes:
        start: Its place in the text.
        end: The end of what would be replaced: scheme, host and port.
        state: What becomes of it.
        host: The host that the text names, in lower case.
        endpoint: The endpoint, if it is known.
        replacement: The text for its place, encoded as the place needs it; empty unless it is rewritten.
        reason: Why it stays, as a sentence.
    """

    start: int
    end: int
    state: UrlState
    host: str
    endpoint: Endpoint | None = None
    replacement: str = ""
    reason: str = ""


@dataclass(frozen=True)
class EndpointMap:
    """
    The known endpoints.

    Attributes:
        hosts: Endpoints by their hosts.
        keys: Endpoints by their keys (`eo...`).
        domains: Domains below which a key is a host: Pipedream's, and those of the team.
    """

    hosts: Mapping[str, Endpoint] = field(default_factory=dict)
    keys: Mapping[str, Endpoint] = field(default_factory=dict)
    domains: frozenset[str] = frozenset(_ENDPOINT_DOMAINS)

    def may_match(self, text: str) -> bool:
        """Return whether *text* may contain a URL; quick."""
        lowered = text.lower()
        return "pipedream." in lowered or any(word in lowered for word in (*self.hosts, *self.keys))

    def find(self, text: str, *, is_paused_url: bool = False) -> list[UrlMatch]:
        """
        Return the URLs of endpoints in *text*, and the parts that look like one, in order.

        Args:
            text: The text.
            is_paused_url: Whether the text is the value of a `resume_url` or `cancel_url`.
        """
        found = [match for each in _URL.finditer(text) if (match := self._classify(text, each, is_paused_url))]
        found += self._find_parts(text, found)
        return sorted(found, key=lambda match: match.start)

    def _classify(self, text: str, found: re.Match[str], is_paused_url: bool) -> UrlMatch | None:
        name = found["host"].rstrip(".-")
        end = found.end() if name == found["host"] else found.start("host") + len(name)
        host = name.lower()
        if _PLATFORM.search(host) and (is_paused_url or self._is_paused(text, end, host)):
            return UrlMatch(found.start(), end, "ends", host, reason=ENDS)
        label, _, domain = host.partition(".")
        endpoint = self.hosts.get(host)
        if endpoint is None and domain in self.domains and (domain in _ENDPOINT_DOMAINS or _KEY.match(label)):
            endpoint = self.keys.get(label)
            if endpoint is None:
                return UrlMatch(found.start(), end, "unknown", host, reason=_UNKNOWN)
        if endpoint is None:
            return None
        if endpoint.url is None:
            return UrlMatch(found.start(), end, "no endpoint", host, endpoint, reason=endpoint.reason)
        new = _encode(endpoint.url, found["separator"])
        if text.startswith(new, found.start()) and not _KEY_LETTER.match(text, found.start() + len(new)):
            return None  # a domain of the team that is the new base, too: the URL is the new one
        return UrlMatch(found.start(), end, "rewrite", host, endpoint, new)

    def _is_paused(self, text: str, end: int, host: str) -> bool:
        """Return whether the URL is one of Pipedream's own with `resume` or `cancel` in its path; an endpoint may have any path."""
        is_own = not any(host.endswith(f".{domain}") for domain in _ENDPOINT_DOMAINS)
        return is_own and _PAUSING.search(host) is not None and _PAUSED_PATH.match(text, end) is not None

    def _find_parts(self, text: str, matches: Sequence[UrlMatch]) -> Iterator[UrlMatch]:
        """Yield hosts without a scheme, and parts from which code may build a URL."""
        parts = []
        rest = _blank(text, matches)
        for found in _DOMAIN.finditer(rest):
            named = _LABEL.search(rest, max(0, found.start() - _MAX_LABEL), found.start())
            start = named.start() if named is not None else found.start()
            before = rest[max(0, start - 1) : start]
            is_whole = named is not None and before not in ("}", "$", "%", "{", "/")
            endpoint = self.keys.get(named[1].lower()) if named is not None else None
            host = rest[start : found.end()].lower()
            parts.append(UrlMatch(start, found.end(), "by hand", host, endpoint, reason=_BARE if is_whole else _BUILT))
        yield from parts
        if self.keys:
            words = re.compile(
                rf"(?<![A-Za-z0-9/-])(?:{'|'.join(map(re.escape, self.keys))})(?![A-Za-z0-9-])", re.IGNORECASE
            )
            for found in words.finditer(_blank(rest, parts)):
                key = found[0].lower()
                yield UrlMatch(found.start(), found.end(), "by hand", key, self.keys[key], reason=_BUILT)


def _blank(text: str, matches: Sequence[UrlMatch]) -> str:
    """Return *text* with blanks in the places of *matches*."""
    pieces, end = [], 0
    for match in matches:
        pieces += [text[end : match.start], " " * (match.end - match.start)]
        end = match.end
    return "".join([*pieces, text[end:]])


def is_paused_name(name: object) -> bool:
    """Return whether *name* is the key of a URL that resumes or cancels a run."""
    return name in _PAUSED_NAMES


def _encode(url: str, separator: str) -> str:
    if "\\" in separator:
        return url.replace("/", "\\/")
    return quote(url, safe="") if "%" in separator else url


def check_base_url(base: str) -> str:
    """
    Return *base*, to which the key of an endpoint is appended.

    Raises:
        RequestError: It has a letter that code, YAML or JSON would not take as a part of a URL.
    """
    if not _BASE.match(base):
        raise RequestError(
            f"{base!r} cannot be written into code, YAML and JSON as it is.",
            fix="Pass https://HOST[/PATH] with letters, digits and . _ ~ - only: --public-url URL",
        )
    return base


def build_endpoint_map(
    sources: Sequence[MigrationSource], project: Project, base: str, named: Sequence[tuple[str, str]] = ()
) -> EndpointMap:
    """
    Return the endpoints of *sources*: with their URLs at *base* if the workflow is in a folder or a notebook.

    Args:
        sources: The workflows, those of the API and of archives included: these know the URLs at Pipedream.
        project: The project that serves the workflows; it makes the key of an endpoint that has none.
        base: The base of the new URLs.
        named: A URL at Pipedream and the name, the id or the path of its workflow, as a person has given them.

    Raises:
        RequestError: A URL belongs to two workflows, or *named* has one that is not a URL or not a workflow.
    """
    local = {str(each.path.resolve()): each for each in sources if each.path is not None}
    found: dict[str, dict[str, MigrationSource]] = {}
    for each in sources:
        owners = [other for other in local.values() if each.id is not None and other.id == each.id]
        for host in _list_hosts(each):
            for owner in [each] if each.path is not None else owners or [each]:
                found.setdefault(host, {})[str(owner.path or owner.source)] = owner
    by_key: dict[str, dict[str, MigrationSource]] = {}
    for each in local.values():
        if each.sidecar is not None and each.sidecar.endpoint:
            by_key.setdefault(each.sidecar.endpoint.lower(), {})[str(each.path)] = each
    for url, word in named:
        found[_parse_host(url)] = {word: _find_named(word, list(local.values()))}
    endpoints = {source.source: _build_endpoint(source, project, base) for source in sources}
    hosts = {host: endpoints[_require_one(host, owners).source] for host, owners in found.items()}
    keys = {key: endpoints[_require_one(key, owners).source] for key, owners in by_key.items() if len(owners) == 1}
    domains = set(_ENDPOINT_DOMAINS)
    for host, endpoint in hosts.items():
        label, _, domain = host.partition(".")
        if _KEY.match(label) or domain in _ENDPOINT_DOMAINS:
            keys[label] = endpoint
            domains.add(domain)
    return EndpointMap(hosts, keys, frozenset(domains))


def _list_hosts(source: MigrationSource) -> frozenset[str]:
    """Return the hosts of the endpoints at Pipedream of *source*, also those that the import of an archive has kept in a notebook."""
    kept = source.workflow.extra.get(ROUND_TRIP_KEY) if source.workflow is not None else None
    urls = kept.get("endpoints") if isinstance(kept, dict) else None
    more = (urlsplit(url).hostname for url in urls.values() if isinstance(url, str)) if isinstance(urls, dict) else ()
    return source.endpoint_hosts | {host.lower() for host in more if host}


def _build_endpoint(source: MigrationSource, project: Project, base: str) -> Endpoint:
    if source.path is None:
        reason = f"It belongs to {source.name}, which is not in a folder or a notebook of SOURCE."
        return Endpoint(source.name, None, reason)
    if source.workflow is None or not any(trigger.type == "http" for trigger in source.workflow.triggers):
        why = "cannot be read" if source.workflow is None else "does not have an HTTP trigger here"
        return Endpoint(source.name, None, f"It belongs to {source.name}, which {why}.")
    return Endpoint(source.name, f"{base}/{ensure_endpoint_key(project, source.path, source.sidecar)}")


def _require_one(url: str, owners: Mapping[str, MigrationSource]) -> MigrationSource:
    if len(owners) > 1:
        listed = " and ".join(sorted(owners))
        raise RequestError(
            f"{url} belongs to {listed}.", fix=f"Name one of the folders, or say which: --endpoint https://{url}=FOLDER"
        )
    return next(iter(owners.values()))


def _parse_host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise RequestError(
            "The URL of --endpoint is not that of an endpoint at Pipedream.",
            fix="Write the URL without a path: --endpoint https://eoabc123.m.pipedream.net=WORKFLOW",
        )
    return host.lower()


def _find_named(word: str, local: Sequence[MigrationSource]) -> MigrationSource:
    paths = {each.source: each.path.resolve() for each in local if each.path is not None}
    by_path = [each for each in local if paths[each.source] == Path(word).resolve()]
    by_id = [each for each in local if each.id == word]
    by_name = [each for each in local if each.name == word or is_workflow_called(paths[each.source], word)]
    found = by_path or by_id or by_name
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(f"{len(found)} workflows are called {word!r}.", fix="Pass the path of one of them.")
    known = ", ".join(each.name for each in local[:10])
    raise RequestError(f"{word!r} is not a workflow of SOURCE.", fix=f"Pass a name, an id or a path of: {known}.")

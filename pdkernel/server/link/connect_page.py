"""
The pages where a user connects an account: with credentials, or with a sign-in at the app and the return from there.

A page does not load resources: style and script are inline, and allowed by their digests. A page never contains a credential.

The script reads `data-message`, `data-origins` and `data-window` of the body. A page in a frame posts its result to the product's
page at an allowed origin, as the platform's page does. Sign-in pages of apps do not open in frames, so the script opens a
window for them. The last page in that window posts the result to the frame.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pdkernel.accounts.apps import OAuthProvider, check_app_slug, find_provider, format_origin
from pdkernel.accounts.oauth import ProviderError, authorize_url, exchange_code
from pdkernel.common.blocking import run_blocking
from pdkernel.common.identity import Account
from pdkernel.common.secret_patterns import is_secret_input
from pdkernel.errors import RequestError
from pdkernel.render.apps import app_icon, format_app_name, format_credential_name
from pdkernel.render.markup import Html, join, tag
from pdkernel.server import webhooks
from pdkernel.server.app_context import LinkContext
from pdkernel.server.app_serializers import list_offered_apps, resolve_link_app
from pdkernel.server.app_state import get_link_context
from pdkernel.server.forms import is_from_this_server, read_form
from pdkernel.server.link.account_connection import (
    NoSuchAccountError,
    TokenUsedError,
    TooManyUsersError,
    check_reconnectable,
    connect_account,
    connect_by_oauth,
)
from pdkernel.server.link.tokens import (
    APP_NOT_FOUND_MESSAGE,
    APP_PARAM,
    FRAMED_PARAM,
    INVALID_MESSAGE,
    LinkRequest,
    find_token_problem,
    publish_link_event,
)
from pdkernel.storage import ConnectToken, PendingSignIn

COOKIE = "pdkernel_link"
"""The cookie of the browser that starts a sign-in: only this browser may finish it. Browsers block cookies in frames, so forms have none."""
_BROWSER_ID = re.compile(r"[A-Za-z0-9]{43}\Z")
CALLBACK_PATH = "/_static/connect/callback"
FIELD_PREFIX = "field:"
FINAL_ERRORS = (TokenUsedError, TooManyUsersError, NoSuchAccountError)
"""Errors that other credentials cannot fix."""
MAX_FORM_BYTES = 1 << 20
"""Maximum size of a form. The key file of a service account has a few thousand bytes."""

_MAX_REASON_CHARACTERS = 300

FOREIGN_FORM_MESSAGE = "The form was sent from another page. To connect an account, fill in this form."
UNKNOWN_SIGN_IN_MESSAGE = (
    "This sign-in was not started in this browser, is already finished, or took too long. Open the link again."
)


async def show(request: Request) -> Response:
    """Answer `GET /_static/connect.html?token=...&app=...`."""
    context = get_link_context(request.app)
    link_request = LinkRequest.from_params(request.query_params)
    link_request = replace(link_request, app=await run_blocking(resolve_link_app, context, link_request.app))
    token = await run_blocking(context.project.connect_tokens.find, link_request.token_text)
    if (fault := find_token_problem(context, token)) is not None or token is None:
        return _error_page(fault or "", token=token, has_close_button=not link_request.hides_close_button)
    await publish_link_event(context, token, "opened")
    if not link_request.app:
        known = await run_blocking(list_offered_apps, context)
        return _choose_page(link_request, token, known)
    return await _credentials_response(context, token, link_request)


async def submit(request: Request) -> Response:
    """Answer `POST /_static/connect.html`, from the page's form."""
    context = get_link_context(request.app)
    form = await read_form(request, MAX_FORM_BYTES)
    if form is None:
        return _error_page(f"The form has more than {MAX_FORM_BYTES} bytes.", status=413)
    link_request = LinkRequest.from_params(form)
    token = await run_blocking(context.project.connect_tokens.find, link_request.token_text)
    if (fault := find_token_problem(context, token)) is not None or token is None:
        return _error_page(fault or "", token=token, has_close_button=not link_request.hides_close_button)
    if not is_from_this_server(context, request):
        return await _credentials_response(context, token, link_request, problem=FOREIGN_FORM_MESSAGE)
    if CANCEL_BUTTON in form:
        await publish_link_event(context, token, "cancelled")
        return _cancelled_page(token)
    provider = await run_blocking(find_provider, context.project, link_request.app)
    if provider is not None:
        return await _start_oauth(context, token, link_request, provider, _read_browser_id(request))
    typed = {
        name.removeprefix(FIELD_PREFIX): value
        for name, value in form.items()
        if name.startswith(FIELD_PREFIX) and value
    }
    if not typed:
        return await _credentials_response(context, token, link_request, problem="Fill in at least one field.")
    try:
        account = await run_blocking(
            connect_account,
            context,
            token,
            token_text=link_request.token_text,
            app=link_request.app,
            credentials=typed,
            account_id=link_request.account_id,
        )
    except FINAL_ERRORS as refusal:
        return await _failure_response(context, token, link_request, str(refusal))
    except RequestError as refusal:
        return await _credentials_response(context, token, link_request, problem=str(refusal))
    return await _success_response(context, token, link_request, account)


async def handle_oauth_callback(request: Request) -> Response:
    """
    Answer `GET /_static/connect/callback?state=...&code=...`, or `&error=...`: the user returns from an app's sign-in page.

    A callback is valid once, and only in the browser that started the sign-in.
    """
    context = get_link_context(request.app)
    params = request.query_params
    browser_id = _read_browser_id(request)
    if browser_id is None:
        return _error_page(UNKNOWN_SIGN_IN_MESSAGE)
    browser = _hash_browser_id(browser_id)
    sign_in = await run_blocking(context.project.pending_sign_ins.consume, params.get("state", ""), browser)
    if sign_in is None:
        return _error_page(UNKNOWN_SIGN_IN_MESSAGE)
    token = await run_blocking(context.project.connect_tokens.find, sign_in.token)
    if token is None:
        return _error_page(INVALID_MESSAGE)
    if (fault := find_token_problem(context, token)) is not None:
        return _error_page(fault, token=token, in_popup=sign_in.framed)
    link_request = LinkRequest(sign_in.token, sign_in.app, sign_in.account, is_framed=sign_in.framed)
    if "code" not in params:
        reason = ": ".join(filter(None, (params.get("error"), params.get("error_description"))))
        problem = f"{format_app_name(sign_in.app)} answered: {reason[:_MAX_REASON_CHARACTERS] or 'no reason given'}"
        return await _failure_response(context, token, link_request, problem, from_callback=True)
    provider = await run_blocking(find_provider, context.project, sign_in.app)
    if provider is None:
        return _error_page(APP_NOT_FOUND_MESSAGE, token=token, in_popup=sign_in.framed)
    try:
        tokens = await run_blocking(
            exchange_code, provider, code=params["code"], verifier=sign_in.verifier, redirect_uri=sign_in.redirect_uri
        )
        account = await run_blocking(
            connect_by_oauth,
            context,
            token,
            token_text=sign_in.token,
            app=sign_in.app,
            tokens=tokens,
            account_id=sign_in.account,
        )
    except (ProviderError, RequestError) as refusal:
        return await _failure_response(context, token, link_request, str(refusal), from_callback=True)
    return await _success_response(context, token, link_request, account, from_callback=True)


async def _success_response(
    context: LinkContext,
    token: ConnectToken,
    link_request: LinkRequest,
    account: Account,
    *,
    from_callback: bool = False,
) -> Response:
    """
    Return the page after *account* was connected; the webhook is sent after the response.

    Args:
        context: Context of the pages.
        token: The Connect token.
        link_request: Parameters of the page.
        account: The connected account.
        from_callback: Whether the user returns from the app's sign-in page, in a popup if the link is in a frame.
    """
    redirect_url = None if link_request.is_framed else token.terms.success_redirect_uri
    answer: Response
    if redirect_url is None:
        in_popup = from_callback and link_request.is_framed
        answer = _connected_page(token, account_id=account.id, app=account.app, in_popup=in_popup)
    else:
        answer = _leave(token, redirect_url, "Your account is connected. Continue.", from_callback=from_callback)
    answer.background = webhooks.webhook_task(context, token)
    await publish_link_event(context, token, "connected", account.id)
    return answer


async def _failure_response(
    context: LinkContext, token: ConnectToken, link_request: LinkRequest, problem: str, *, from_callback: bool = False
) -> Response:
    """Return the page after an account was not connected; the webhook is sent after the response."""
    redirect_url = None if link_request.is_framed else token.terms.error_redirect_uri
    answer: Response
    if redirect_url is None:
        in_popup = from_callback and link_request.is_framed
        answer = _error_page(
            problem, token=token, has_close_button=not link_request.hides_close_button, in_popup=in_popup
        )
    else:
        answer = _leave(token, redirect_url, "The account was not connected. Continue.", from_callback=from_callback)
    event = webhooks.build_error_event(token, link_request.token_text, problem)
    await run_blocking(webhooks.store_event, context, token, event)
    answer.background = webhooks.webhook_task(context, token)
    await publish_link_event(context, token, "failed", problem)
    return answer


async def _credentials_response(
    context: LinkContext, token: ConnectToken, link_request: LinkRequest, *, problem: str = ""
) -> Response:
    closes = not link_request.hides_close_button
    try:
        check_app_slug(link_request.app)
        if link_request.account_id is not None:
            await run_blocking(check_reconnectable, context, token, link_request.app, link_request.account_id)
    except NoSuchAccountError as fault:
        return _error_page(str(fault), token=token, status=404, has_close_button=closes)
    except RequestError:
        return _error_page(APP_NOT_FOUND_MESSAGE, token=token, status=404, has_close_button=closes)
    about = _PageSubject(link_request, token)
    provider = await run_blocking(find_provider, context.project, link_request.app)
    if provider is not None:
        return _sign_in_page(about, urlsplit(provider.authorize_url).netloc, problem=problem)
    fields = await run_blocking(context.directory.credential_fields, link_request.app)
    return _credentials_page(about, fields, problem=problem)


async def _start_oauth(
    context: LinkContext,
    token: ConnectToken,
    link_request: LinkRequest,
    provider: OAuthProvider,
    browser_id: str | None,
) -> Response:
    if link_request.account_id is not None:
        try:
            await run_blocking(check_reconnectable, context, token, link_request.app, link_request.account_id)
        except NoSuchAccountError as refusal:
            return await _failure_response(
                context, token, link_request, str(refusal), from_callback=link_request.is_framed
            )
    browser_id = browser_id or context.ids.new("", 43)
    state, verifier = context.ids.new("", 43), context.ids.new("", 64)
    redirect_uri = context.settings.base_url + CALLBACK_PATH
    visit = PendingSignIn(
        link_request.token_text,
        link_request.app,
        verifier,
        _hash_browser_id(browser_id),
        redirect_uri,
        link_request.account_id,
        link_request.is_framed,
    )
    await run_blocking(context.project.pending_sign_ins.add, state, visit)
    url = authorize_url(provider, state=state, verifier=verifier, redirect_uri=redirect_uri)
    answer = _redirect_page(token, url, f"Continue to {urlsplit(url).netloc}.")
    _set_browser_id(context, answer, browser_id)
    return answer


def _read_browser_id(request: Request) -> str | None:
    """Return the browser's id, or None if this browser did not start a sign-in."""
    browser_id = request.cookies.get(COOKIE, "")
    return browser_id if _BROWSER_ID.match(browser_id) else None


def _set_browser_id(context: LinkContext, response: Response, browser_id: str) -> None:
    """Set the cookie with *browser_id*; the browser also sends it when an app's sign-in page redirects back."""
    parts = urlsplit(context.settings.base_url)
    response.set_cookie(
        COOKIE,
        browser_id,
        path=f"{parts.path}/_static",
        secure=parts.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def _hash_browser_id(browser_id: str) -> str:
    """Return the digest of a browser id, for storage."""
    return hashlib.sha256(browser_id.encode()).hexdigest()


def _leave(token: ConnectToken, url: str, text: str, *, from_callback: bool) -> Response:
    """Lead to *url* of the product; the response to a form is a page with *text* that redirects by itself."""
    return _redirect(url) if from_callback else _redirect_page(token, url, text)


def _redirect(url: str) -> Response:
    return RedirectResponse(
        url, status_code=303, headers={"referrer-policy": "no-referrer", "cache-control": "no-store"}
    )


CANCEL_BUTTON = "cancel"
"""Name of the cancel button."""

_ICON_PX = 40
_MULTILINE_FIELD = re.compile("private_?key|certificate|_json|pem", re.IGNORECASE)
_CLOSE_BUTTON = tag("button", "Close", type="button", data_close="close", hidden="hidden", class_="quiet")
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; display: grid; place-items: start center; padding: 8vh 16px; }
main { width: 100%; max-width: 26rem; overflow-wrap: break-word; }
body.framed { background: #0008; min-height: 84vh; }
body.framed main { background: Canvas; color: CanvasText; padding: 24px; border-radius: 10px; box-sizing: border-box; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
h1 img { display: block; margin-bottom: .75rem; }
label { display: block; margin: 1rem 0 .25rem; font-weight: 600; }
input, textarea { box-sizing: border-box; width: 100%; font: inherit; padding: .5rem; }
textarea { min-height: 6rem; font-family: monospace; }
button { margin-top: 1.25rem; width: 100%; font: inherit; font-weight: 600; padding: .6rem; cursor: pointer;
  background: #0969da; color: #fff; border: 1px solid #0969da; border-radius: 6px; }
button.quiet { margin-top: .75rem; background: transparent; color: inherit; border-color: #8888; font-weight: 400; }
.note { opacity: .75; font-size: .9rem; }
.bad { border-left: 4px solid #cf222e; padding-left: .75rem; }
.good { border-left: 4px solid #1a7f37; padding-left: .75rem; }
"""
SCRIPT = """
const data = document.body.dataset;
const message = data.message ? JSON.parse(data.message) : null;
const framed = window.parent !== window;
const post = (result) => {
  for (const origin of JSON.parse(data.origins || '[]')) window.parent.postMessage(result, origin);
};
const report = (result) => {
  post(result);
  if (result.type === 'success') post({ type: 'close' });
};
const showStatus = (text) => { document.querySelector('#status').textContent = text; };

if (framed) {
  document.body.classList.add('framed');
  if (message) report(message);
} else if (message && data.window && window.opener) {
  window.opener.postMessage(message, window.location.origin);
  window.close();
}
for (const button of document.querySelectorAll('button[data-close]')) {
  button.hidden = !framed;
  button.addEventListener('click', () => post({ type: 'close' }));
}
let opened = null;
for (const form of framed ? document.forms : []) {
  if (form.elements.framed) form.elements.framed.value = 'true';
  form.addEventListener('submit', (event) => {
    form.target = '';
    if (!form.dataset.window || event.submitter?.name === 'cancel') return;
    opened = window.open('', 'pdkernel-sign-in', 'popup,width=560,height=760');
    if (!opened) {
      event.preventDefault();
      showStatus('The browser did not open a window. Allow pop-ups for this page, and try again.');
      return;
    }
    form.target = 'pdkernel-sign-in';
    showStatus('Continue in the window that has opened.');
  });
}
window.addEventListener('message', (event) => {
  if (!opened || event.source !== opened || event.origin !== window.location.origin) return;
  showStatus(event.data.type === 'success' ? 'The account is connected.' : event.data.error || '');
  report(event.data);
});
"""


@dataclass(frozen=True, slots=True)
class _PageSubject:
    """
    The subject of a page.

    Attributes:
        link_request: Parameters of the page.
        token: The Connect token.
    """

    link_request: LinkRequest
    token: ConnectToken

    @property
    def title(self) -> str:
        """The page's title."""
        again = " again" if self.link_request.account_id else ""
        return f"Connect {format_app_name(self.link_request.app)}{again}"


def _choose_page(link_request: LinkRequest, token: ConnectToken, apps: Iterable[str]) -> HTMLResponse:
    """Return the page to choose an app."""
    names = sorted({format_app_name(app) for app in apps}, key=str.casefold)
    listed = tag("datalist", *(_void("option", value=name) for name in names), id="apps")
    kept = {
        name: value
        for name, value in link_request.to_form_fields().items()
        if value and name not in (APP_PARAM, FRAMED_PARAM)
    }
    fields = (
        *(_hidden(name, value) for name, value in kept.items()),
        _hidden("connectLink", "true"),
        tag("label", "App", for_="app"),
        _void(
            "input",
            id="app",
            name_="app",
            list="apps",
            required="required",
            autocomplete="off",
            autofocus="autofocus",
        ),
        listed,
        tag("button", "Continue"),
        *(() if link_request.hides_close_button else (_CLOSE_BUTTON,)),
    )
    return _page("Connect an account", _user_line(token), tag("form", *fields, method="get", action="connect.html"), token=token)  # fmt: skip


def _credentials_page(about: _PageSubject, fields: Sequence[str], *, problem: str = "") -> HTMLResponse:
    """Return the page to enter credentials."""
    titles = Counter(map(format_credential_name, fields))
    shown = {field: title if titles[title := format_credential_name(field)] == 1 else field for field in fields}
    inputs = [each for number, field in enumerate(fields) for each in _field(number, field, shown[field])]
    form = _form(about, *inputs, tag("button", "Connect"))
    return _form_page(about, form, problem)


def _sign_in_page(about: _PageSubject, host: str, *, problem: str = "") -> HTMLResponse:
    """Return the page with a button to the app's sign-in page."""
    form = _form(about, tag("button", f"Continue to {host}"), data_window="sign-in")
    return _form_page(about, form, problem)


def _redirect_page(token: ConnectToken, url: str, link_text: str) -> HTMLResponse:
    """
    Return a page that redirects to *url* by itself.

    An HTTP redirect does not work: browsers apply the `form-action` policy to every redirect after a form.
    """
    link = tag("p", tag("a", link_text, href=url, rel="noreferrer"))
    return _page("One moment", link, token=token, head=_void("meta", http_equiv="refresh", content=f"0;url={url}"))


def _connected_page(token: ConnectToken, *, account_id: str, app: str, in_popup: bool = False) -> HTMLResponse:
    """Return the page after an account was connected. With *in_popup*, the page reports to the frame and closes."""
    text = tag(
        "p", f"Your {format_app_name(app)} account is connected. You can close this page.", class_="good", role="status"
    )
    message = {"type": "success", "authProvisionId": account_id}
    return _page("Connected", text, token=token, app=app, message=message, window=in_popup)


def _error_page(
    problem: str,
    *,
    token: ConnectToken | None = None,
    status: int = 400,
    has_close_button: bool = True,
    in_popup: bool = False,
) -> HTMLResponse:
    """Return the page with an error. With *has_close_button*, the page has a button that closes the frame."""
    parts = (_problem(problem), *((_CLOSE_BUTTON,) if has_close_button else ()))
    message = {"type": "error", "error": problem}
    return _page("Not connected", *parts, token=token, status=status, message=message, window=in_popup)


def _cancelled_page(token: ConnectToken) -> HTMLResponse:
    """Return the page after the user cancelled."""
    text = tag("p", "No account was connected. You can close this page.", role="status")
    return _page("Cancelled", text, token=token, message={"type": "close"})


def _form_page(about: _PageSubject, form: Html, problem: str) -> HTMLResponse:
    parts = (_problem(problem), _user_line(about.token), form, tag("p", id="status", role="status"))
    app = about.link_request.app
    return _page(about.title, *parts, token=about.token, app=app, status=400 if problem else 200)


def _page(
    title: str,
    *parts: str,
    token: ConnectToken | None,
    app: str = "",
    status: int = 200,
    message: Mapping[str, str] | None = None,
    head: Html | None = None,
    window: bool = False,
) -> HTMLResponse:
    origins = list(token.terms.allowed_origins) if token is not None else []
    data = {"data_origins": json.dumps(origins)} if origins else {}
    if message and origins:
        data["data_message"] = json.dumps(message)
    if window:
        data["data_window"] = "sign-in"
    top = (
        _void("meta", charset="utf-8"),
        _void("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        Html(f"<style>{STYLE}</style>"),
        head or Html(""),
    )
    icon = app_icon(app, size_px=_ICON_PX, style="") if app else ""
    body = tag("body", tag("main", tag("h1", icon, title), *parts), Html(f"<script>{SCRIPT}</script>"), **data)
    page = join([Html("<!DOCTYPE html>\n"), tag("html", tag("head", *top), body, lang="en")])
    return HTMLResponse(page, status_code=status, headers=_headers(origins))


def _headers(origins: Sequence[str]) -> dict[str, str]:
    policy = {
        "default-src": "'none'",
        "style-src": _digest(STYLE),
        "script-src": _digest(SCRIPT),
        "img-src": "data:",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": " ".join(map(format_origin, origins)) or "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "cache-control": "no-store",
        # without a referrer, a browser also omits the Origin of a form
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
    }


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _form(about: _PageSubject, *parts: str, **attributes: str) -> Html:
    hidden = [_hidden(name, value) for name, value in about.link_request.to_form_fields().items()]
    cancel = {"name_": CANCEL_BUTTON, "value": "true", "formnovalidate": "formnovalidate", "class_": "quiet"}
    ends = () if about.link_request.hides_close_button else (tag("button", "Cancel", **cancel),)
    sent = {"method": "post", "action": "connect.html", "autocomplete": "off", **attributes}
    return tag("form", *hidden, *parts, *ends, **sent)


def _field(number: int, field: str, title: str) -> tuple[str, str]:
    label = tag("label", title, for_=f"field-{number}")
    given = {"id": f"field-{number}", "name_": f"field:{field}", "autocomplete": "off", "spellcheck": "false"}
    if number == 0:
        given["autofocus"] = "autofocus"
    if _MULTILINE_FIELD.search(field):
        return label, tag("textarea", **given)
    if is_secret_input(field):
        return label, _void("input", type="password", **{**given, "autocomplete": "new-password"})
    return label, _void("input", type="text", **given)


def _user_line(token: ConnectToken) -> Html:
    return tag("p", f"For {token.external_user_id}, in {token.environment}.", class_="note")


def _problem(text: str) -> Html:
    return tag("p", text, class_="bad", role="alert") if text else Html("")


def _hidden(name: str, value: str) -> Html:
    return _void("input", type="hidden", name_=name, value=value)


def _void(name: str, **attributes: str) -> Html:
    """Return an element without an end tag."""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))

"""
`%pduser`, `%pdevent`, `%pdenv`, `%pdegress`, `%pdpin`: the settings of runs.

Every setting can be made without a widget. Without arguments, `%pduser` and `%pdevent` show a form.
"""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from pdkernel.common.identity import Environment, check_external_user_id, parse_environment
from pdkernel.engine.variables import load_variables
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.kit.magics.notebook_context import get_session, list_step_kinds
from pdkernel.kit.magics.output import (
    LiveLine,
    LiveTimeline,
    keep_updated,
    offer_save_test,
    parse_arguments,
    raise_on_failure,
    remove_quotes,
    show_errors_as_messages,
    show_message,
    wait_for_pauses,
)
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import RichOutput

if TYPE_CHECKING:
    from pdkernel.egress import OutboundPolicy
    from pdkernel.engine.event_sources import SourceResult
    from pdkernel.kit.session import Session

MAX_PREVIEW_NODES = 100
"""Paths of an event in the output of `%pdevent`, which is drawn again after each change; `%pdshape` has more."""


@magics_class
class RunSettingsMagics(Magics):
    """External user, test event, variables, outbound policy and pins."""

    @magic_arguments()
    @argument("external_user_id", nargs="?", help="the external user's id in your product; without it, show the picker")
    @argument(
        "--environment", "-e", choices=["development", "production"], help="default: unchanged, initially development"
    )
    @argument(
        "--sandbox", metavar="APP", help="connect a made-up account, for a stand-in, if the user has none of the app"
    )
    @argument("--clear", action="store_true", help="run without an external user")
    @argument(
        "--search",
        metavar="TEXT",
        help="list the users whose id or account name contains TEXT; with --matrix: only these",
    )
    @argument("--matrix", action="store_true", help="show for each external user and step whether it could run")
    @argument(
        "--what-if", action="store_true", help="show how this user's accounts would be looked up; changes no setting"
    )
    @line_magic
    @show_errors_as_messages
    def pduser(self, line: str) -> Any:
        """Pick the external user that steps run for."""
        chosen = parse_arguments(self.pduser, line)
        session = get_session(self.shell)
        if chosen.matrix or chosen.what_if or chosen.search is not None:
            self._look(session, chosen)
            return None
        if chosen.clear:
            session.choose_user(None, parse_environment(chosen.environment) if chosen.environment else None)
            show_message("Steps run without an external user.")
            return None
        if chosen.external_user_id is None and chosen.environment is None and chosen.sandbox is None:
            from pdkernel.kit.widgets import UserPicker

            return UserPicker(session)
        session.choose_user(
            session.external_user_id if chosen.external_user_id is None else chosen.external_user_id,
            parse_environment(chosen.environment) if chosen.environment else None,
        )
        user, environment = session.external_user_id, session.environment
        if chosen.sandbox is not None:
            _connect_test_account(session, chosen.sandbox)
        line_shown = LiveLine(lambda: _build_user_output(session, user, environment))
        keep_updated(self.shell, "%pduser", line_shown.redraw)
        return None

    def _look(self, session: Session, chosen: Any) -> None:
        """Show the matrix of users and steps, found users, or the account lookup for one user; changes no setting, runs no step."""
        environment = parse_environment(chosen.environment) if chosen.environment else session.environment
        user = chosen.external_user_id
        if chosen.matrix:
            display(_build_matrix_output(session, user, environment, chosen.search or ""))
        elif chosen.what_if:
            display(_build_lookup_output(session, user, environment))
        elif user is not None:
            raise RequestError("An id and --search exclude each other.", fix="%pduser ID, or %pduser --search TEXT")
        else:
            display(_build_user_list(session, environment, chosen.search))

    @magic_arguments()
    @argument("file", nargs="?", help="a saved event's name or an event file; without it, show the composer")
    @argument("--send", action="store_true", help="run the whole workflow on the event")
    @argument("--skip-waits", action="store_true", help="with --send: go on at once where the workflow pauses")
    @argument("--save", metavar="NAME", help="save the chosen event as events/NAME.json")
    @argument("--run", metavar="ID", help="choose the event and the external user of this recorded run")
    @argument(
        "--emit",
        action="store_true",
        help="run the trigger's source (on FILE, if given), and choose its newest new event",
    )
    @line_magic
    @show_errors_as_messages
    def pdevent(self, line: str) -> Any:
        """Choose, write, save or send the test event."""
        from pdkernel.render.shape import render_output

        chosen = parse_arguments(self.pdevent, line)
        session = get_session(self.shell)
        if chosen.file is None and not (chosen.send or chosen.emit) and chosen.save is None and chosen.run is None:
            from pdkernel.kit.widgets import EventComposer

            return EventComposer(session)
        if chosen.file is not None and chosen.run is not None:
            raise RequestError("An event and --run exclude each other.", fix="Leave out one of them.")
        if chosen.file is not None:
            session.load_event(chosen.file)
        if chosen.run is not None:
            from pdkernel.operations.run_history import get_run

            session.choose_event_of_run(session.call_engine(lambda _: get_run(session.project, chosen.run)))
        chooses = chosen.file is not None or chosen.emit or chosen.run is not None
        if chosen.emit:
            _show_emitted_events(session.poll_source(on_event=chosen.file is not None))
        if chosen.save is not None:
            path = session.save_event(chosen.save)
            show_message(f"Saved as {path.parent.name}/{path.name}.")
        event = session.event
        self.shell.user_ns["event"] = event
        drift = _build_drift_output(session) if chosen.send or chooses else None
        if drift is not None and chosen.send:
            display(drift)
        if chosen.send:
            timeline = LiveTimeline(session)
            execution = session.run(
                skips_waits=chosen.skip_waits, on_change=timeline.update, while_waiting=timeline.tick
            )
            execution = wait_for_pauses(self.shell, session, timeline, execution)
            keep_updated(self.shell, "%pdevent", timeline.redraw)
            offer_save_test(self.shell, session, execution)
            raise_on_failure(execution)
        elif event is not None and chooses:
            name, summary = session.event_name, event.summary()
            preview = render_output(
                event.shape(), kinds=list_step_kinds(session), more="%pdshape --full", max_nodes=MAX_PREVIEW_NODES
            )
            line_shown = LiveLine(lambda: _build_event_output(session, name, summary) + preview)
            keep_updated(self.shell, "%pdevent", line_shown.redraw)
            if drift is not None:
                display(drift)
        return None

    @no_var_expand
    @magic_arguments()
    @argument("action", nargs="?", choices=["list", "set", "remove"], default="list")
    @argument(
        "name",
        nargs="?",
        help="the variable's name; pdkernel prompts for the value, which is never saved in the notebook",
    )
    @line_magic
    @show_errors_as_messages
    def pdenv(self, line: str) -> None:
        """List, set or remove environment variables of the project; steps can read them, notebooks cannot."""
        chosen = parse_arguments(self.pdenv, line)
        session = get_session(self.shell)
        if chosen.action != "list" and not chosen.name:
            raise RequestError("The name of the variable is missing.", fix=f"%pdenv {chosen.action} NAME")
        if chosen.action == "set":
            from pdkernel.operations.environment import set_variable

            set_variable(session.project, chosen.name, lambda: getpass.getpass(f"{chosen.name}: "))
            show_message(f"{chosen.name} is set.")
        elif chosen.action == "remove":
            removed = session.project.variables.remove(chosen.name)
            show_message(
                f"{chosen.name} is removed." if removed else f"There is no environment variable {chosen.name}."
            )
        else:
            show_message(self._list_variables())

    def _list_variables(self) -> str:
        from pdkernel.language.analysis import find_workflow_variables
        from pdkernel.storage.settings import is_secret_prop_name

        session = get_session(self.shell)
        values = load_variables(session.project, session.folder)
        known = sorted(name for name in values if not is_secret_prop_name(name))
        read = find_workflow_variables(session.workflow)
        lines = [f"{name}  set" + (f", read by {', '.join(read[name])}" if name in read else "") for name in known]
        lines += [
            f"{name}  NOT SET, read by {', '.join(steps)}: %pdenv set {name}"
            for name, steps in sorted(read.items())
            if name not in known
        ]
        return "\n".join(lines) or "No environment variables. To set a variable: %pdenv set NAME"

    @no_var_expand
    @magic_arguments()
    @argument("action", nargs="?", choices=["list", "set", "remove"], default="list")
    @argument("step", nargs="?", help="the step")
    @argument(
        "prop", nargs="?", help="the secret prop; pdkernel prompts for its value, which is never saved in the notebook"
    )
    @line_magic
    @show_errors_as_messages
    def pdsecrets(self, line: str) -> None:
        """List, set or remove values of secret props, whose values only Pipedream has."""
        from pdkernel.engine.preflight_checks import format_secret_magic
        from pdkernel.language.analysis import find_secret_props
        from pdkernel.operations.environment import find_stored_secret, set_secret_prop

        chosen = parse_arguments(self.pdsecrets, line)
        session = get_session(self.shell)
        name = f"{chosen.step}.{chosen.prop}"
        if chosen.action != "list" and not chosen.prop:
            raise RequestError("The step or the prop is missing.", fix=f"%pdsecrets {chosen.action} STEP PROP")
        if chosen.action == "set":
            set_secret_prop(
                session.project, session.workflow, chosen.step, chosen.prop, lambda: getpass.getpass(f"{name}: ")
            )
            show_message(f"{name} is set.")
        elif chosen.action == "remove":
            session.project.variables.remove(find_stored_secret(session.project, name))
            show_message(f"The value of {name} is removed.")
        else:
            values = load_variables(session.project, session.folder)
            lines = [
                f"{prop.name}  set"
                if prop.find_value(values) is not None
                else f"{prop.name}  NOT SET: {format_secret_magic(prop)}"
                for prop in find_secret_props(session.workflow)
            ]
            show_message("\n".join(lines) or "This workflow has no secret props.")

    @no_var_expand
    @magic_arguments()
    @argument(
        "mode",
        nargs="*",
        help="live | deny | allow=HOST,... | stand-in=URL or a name | record=FILE | replay=FILE; then via=PROXY, unopened=HOST,...",
    )
    @line_magic
    @show_errors_as_messages
    def pdegress(self, line: str) -> None:
        """Show or set the outbound policy of this notebook."""
        chosen = parse_arguments(self.pdegress, line)
        session = get_session(self.shell)
        if chosen.mode:
            session.choose_egress(" ".join(chosen.mode))
        show_message(describe_outbound_policy(session.outbound_policy))

    @no_var_expand
    @magic_arguments()
    @argument("step", nargs="?", help="the step to pin; without it, list the pins")
    @argument("exports", nargs="*", help="the exports as a JSON object; default: the step's last exports")
    @argument("--clear", action="store_true", help="release the step, or every step")
    @line_magic
    @show_errors_as_messages
    def pdpin(self, line: str) -> None:
        """Pin a step's exports: later steps get them, and the step does not run. Export and serving ignore pins."""
        from pdkernel.operations.runs import parse_pinned_exports

        name, _, text = line.strip().partition(" ")
        session = get_session(self.shell)
        if name == "--clear" or text.strip() == "--clear":
            self._unpin(text.strip() if name == "--clear" else name)
            return
        if not name:
            pins = session.pins
            show_message(
                "\n".join(f"{step} is pinned" for step in pins) + "\nExport and serving ignore pins."
                if pins
                else "No step is pinned. Pin a step with %pdpin STEP, or %pdpin STEP '{\"$return_value\": 1}'."
            )
            return
        given = remove_quotes(text.strip())
        session.pin(name, parse_pinned_exports(given, label="the pin") if given else None)
        show_message(
            f"{name} is pinned: later steps get these exports. Export and serving ignore pins. Release: %pdpin --clear {name}"
        )

    def _unpin(self, name: str) -> None:
        session = get_session(self.shell)
        names = [name] if name else list(session.pins)
        released = [each for each in names if session.unpin(each)]
        show_message(f"Released: {', '.join(released)}." if released else "No step was pinned.")


def _connect_test_account(session: Session, app: str) -> None:
    from pdkernel.operations.users import connect_test_account

    user = session.external_user_id or ""
    if connect_test_account(session.directory, app, external_user_id=user, environment=session.environment):
        session.notify_accounts_changed()
        name = format_app_name(app)
        show_message(f"Connected a test account of {name} for {user}. Its credentials are made up, for a stand-in.")


def _build_user_output(session: Session, user: str | None, environment: Environment) -> RichOutput:
    """Return the accounts of *user* for the workflow, and the picked user if this has changed since."""
    from pdkernel.operations.readiness import check_app_accounts
    from pdkernel.operations.readiness.requirements import render_accounts_html, render_accounts_text

    apps = check_app_accounts(
        session.workflow, directory=session.directory, catalog=session.catalog, user=user, environment=environment
    )
    view = RichOutput(
        text=render_accounts_text(apps, external_user_id=user, environment=environment),
        html=render_accounts_html(apps, external_user_id=user, environment=environment),
    )
    if (session.external_user_id, session.environment) == (user, environment):
        return view
    now = f"as {session.external_user_id}" if session.external_user_id else "without an external user"
    return view + RichOutput.from_message(f"The choice has changed since: steps run {now}, in {session.environment}.")


def _build_user_list(session: Session, environment: Environment, text: str) -> RichOutput:
    """Return the external users that match *text*, with their marks."""
    from pdkernel.operations import users
    from pdkernel.operations.users import search_users

    try:
        workflow = session.workflow
    except DefinitionError:
        workflow = None
    found = session.call_engine(
        lambda _: search_users(
            session.project,
            session.directory,
            environment=environment,
            text=text,
            workflow=workflow,
            catalog=session.catalog,
        )
    )
    return users.render_output(
        found, now=session.project.clock.now(), hint="To narrow the search, write a longer text."
    )


def _build_matrix_output(session: Session, user: str | None, environment: Environment, search: str) -> RichOutput:
    """Return which step could run for which external user; *user* or *search* limits the matrix."""
    from pdkernel.operations.readiness import build_matrix, matrix

    table = build_matrix(
        session.workflow,
        directory=session.directory,
        catalog=session.catalog,
        environment=environment,
        users=(check_external_user_id(user),) if user is not None else (),
        test_users=session.sidecar.test_users if session.sidecar else (),
        search=search,
    )
    return RichOutput(text=matrix.render_text(table), html=matrix.render_html(table))


def _build_lookup_output(session: Session, user: str | None, environment: Environment) -> RichOutput:
    """Return how the accounts would be looked up for *user*; default: the picked user."""
    from pdkernel.operations.readiness import preview_lookup
    from pdkernel.render import lookup

    found = preview_lookup(
        session.workflow,
        directory=session.directory,
        catalog=session.catalog,
        environment=environment,
        external_user_id=check_external_user_id(user) if user is not None else session.external_user_id,
    )
    return lookup.render_output(found.lookup)


def _build_drift_output(session: Session) -> RichOutput | None:
    """Return the contract fields that the chosen event lacks or changes; None if there are none, or while the draft has an error."""
    from pdkernel.operations.events import compare_with_saved_events
    from pdkernel.render import contract

    if session.event is None:
        return None
    try:
        workflow = session.workflow
    except DefinitionError:
        return None
    return contract.render_event_output(
        compare_with_saved_events(workflow, session.events, session.event, name=session.event_name)
    )


def _build_event_output(session: Session, name: str | None, summary: str) -> RichOutput:
    """Return the event in one line with the external user, and the chosen event if this has changed since."""
    who = f", as {session.external_user_id} in {session.environment}" if session.external_user_id else ""
    if session.event_name == name:
        return RichOutput.from_message(f"Event {name}: {summary}{who}.")
    return RichOutput.from_message(f"Event {name}: {summary}. The choice has changed since: {session.event_name}{who}.")


def describe_outbound_policy(policy: OutboundPolicy) -> str:
    """Return a description of the outbound policy."""
    value = policy.mode_text.partition("=")[2]
    words = {
        "live": "Outbound calls are sent for real.",
        "deny": "Outbound calls are refused.",
        "allow": f"Outbound calls go to {value} only; others are refused.",
        "stand-in": f"Outbound calls are not sent: {_describe_stand_ins(value)}. Remove this line to send them for real.",
        "record": f"Outbound calls are sent for real and recorded in {value}.",
        "replay": f"Outbound calls are not sent: the recording {value} answers them.",
    }
    sentences = [words[policy.mode]]
    if policy.via:
        sentences.append(f"They go through the proxy {urlsplit(policy.via).hostname}.")
    if policy.unopened:
        sentences.append(f"Calls to {', '.join(policy.unopened)} pass through without decryption.")
    return " ".join(sentences)


def _show_emitted_events(ran: SourceResult) -> None:
    """Show the source's logs, events and error; does not raise, because events before a failure count."""
    from pdkernel.operations.triggers import describe_events

    for log in ran.record.logs:
        show_message(log.text.rstrip("\n"))
    if ran.record.error is not None:
        show_message(f"Error: {ran.component.uses}: {ran.record.error.message}")
    show_message("\n".join(describe_events(ran)))


def _describe_stand_ins(value: str) -> str:
    names = value.split(",")
    if len(names) == 1:
        return f"a local stand-in ({value}) answers them"
    return f"local stand-ins ({', '.join(names)}) answer them"

"""
`pdkernel import`: notebooks from synced folders, and from Pipedream's archive of a project.

Options, questions and output of the command; it asks questions only on a terminal. `importer` writes the notebooks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from pdkernel.cli.app import EXIT_STATUSES, MIGRATE, CliContext, command, json_option
from pdkernel.cli.terminal import is_interactive, print_json, print_text
from pdkernel.errors import PdkernelError, RequestError, format_count

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.common.identity import Directory
    from pdkernel.files.definition import Sidecar
    from pdkernel.model import HttpAuth, ResponseMode, Trigger, Workflow
    from pdkernel.operations.importer import AccountQuestion, ImportOptions, ImportResult
    from pdkernel.operations.importer.import_report import ImportReport

PROGRESS_MIN_WORKFLOWS = 20
"""Imports of at least this many workflows show progress."""
EXTERNAL_USER = "external_user"
UNANSWERED = "unanswered"
_SHOWN_LOCATIONS = 5


@command(
    name="import",
    section=MIGRATE,
    examples=(
        "pdkernel import ../project/greet --to greet.ipynb",
        "pdkernel import ../project --to notebooks/ --accounts external-user",
        "pdkernel import project_export-proj_1a2b3c.zip --to notebooks/",
        "pdkernel import project_export-proj_1a2b3c.zip --explain",
    ),
    exit_statuses={**EXIT_STATUSES, 2: "refused, or a workflow could not be imported"},
)
@cloup.argument("source", metavar="FOLDER|ZIP", type=click.Path(path_type=Path))
@cloup.option("--to", metavar="NOTEBOOK|FOLDER", help="The notebook, or the folder of notebooks, to write.")
@cloup.option(
    "--accounts",
    type=click.Choice(["ask", "own", "external-user"]),
    default="ask",
    help="The owner of the account ids in the files. ask (the default) asks on a terminal; elsewhere the ids stay "
    "unanswered.",
)
@cloup.option("--force", is_flag=True, help="Replace existing notebooks; a copy of each stays beside the new one.")
@cloup.option(
    "--modernize",
    is_flag=True,
    help="Rewrite steps of the first version of Pipedream's workflows in the notebook, and show the difference.",
)
@cloup.option(
    "--ignore",
    "ignored",
    metavar="KEY",
    multiple=True,
    help="A key of the archive of which you know that it does not decide when steps run: it disables no step.",
)
@cloup.option(
    "--explain",
    is_flag=True,
    help="Write nothing: print the keys and types, without values, of what is not understood in the archive.",
)
@json_option
def import_(
    state: CliContext, source: Path, to: str | None, explain: bool, ignored: tuple[str, ...], **given: Any
) -> int:
    """
    Write workflows of Pipedream as notebooks.

    FOLDER is the folder of a workflow of Pipedream's Git sync, or a folder of them. ZIP is the archive that Export Workflows in a
    project's settings makes. Each workflow becomes a notebook.
    """
    from pdkernel.files.definition.archive import is_archive

    as_json: bool = given["as_json"]
    found_archive = is_archive(source)
    if not found_archive and (explain or ignored):
        raise RequestError(
            f"{source} is not an archive; --explain and --ignore are about archives.",
            fix="Name the file project_export-....zip.",
        )
    if explain:
        return _explain(source, ignored, as_json=as_json)
    if to is None:
        raise click.UsageError("Missing option '--to'.")
    if found_archive:
        return _import_archive(state, source, Path(to), ignored, **given)
    return _import_folders(state, source, Path(to), **given)


def _import_folders(
    state: CliContext, folder: Path, to: Path, *, accounts: str, force: bool, modernize: bool, as_json: bool
) -> int:
    from pdkernel.operations.importer import find_workflow_folders, import_folder, plan_notebook_paths

    found = plan_notebook_paths(folder, find_workflow_folders(folder), to)
    build_options = _OptionsBuilder(state, folder, len(found), accounts, force, modernize)
    done = []
    for number, (source, notebook) in enumerate(found, start=1):
        _progress(number, len(found), source.name)
        done.append(import_folder(source, notebook, build_options(source)))
    if len(done) == 1 and done[0].error is not None:
        raise done[0].error
    if as_json:
        print_json([one.to_json() for one in done] if len(done) > 1 else done[0].to_json())
    else:
        _print(done)
    return max((one.error.exit_status for one in done if one.error is not None), default=0)


def _import_archive(
    state: CliContext,
    archive: Path,
    to: Path,
    ignored: Sequence[str],
    *,
    accounts: str,
    force: bool,
    modernize: bool,
    as_json: bool,
) -> int:
    from pdkernel.operations.importer import import_archive

    # how many workflows there are is known only when the archive is open: triggers are asked for after one question
    build_options = _OptionsBuilder(state, archive, 2, accounts, force, modernize)
    result = import_archive(archive, to, build_options(archive.parent), ignored=ignored, on_progress=_progress)
    if as_json:
        print_json(result.to_json())
        return result.exit_status
    _print(result.workflows)
    if result.lines:
        click.echo("The manifest, line by line:")
    for line in result.lines:
        print_text(f"  {line.name}: {line.result}")
        for warning in line.warnings:
            print_text(f"    {warning}")
    for note in result.notes:
        print_text(f"Note: {note}")
    if any(one.report is not None and one.report.conditions for one in result.workflows):
        click.echo(
            f"Steps whose condition is unknown are disabled. To show what was not understood: pdkernel import --explain {archive}"
        )
    return result.exit_status


def _explain(archive: Path, ignored: Sequence[str], *, as_json: bool) -> int:
    """Print the shapes of what is not understood in *archive*."""
    from pdkernel.operations.importer import explain_archive

    shapes = explain_archive(archive, ignored=ignored)
    if as_json:
        print_json([each.to_json() for each in shapes])
        return 0
    click.echo("Keys and types of what pdkernel does not understand, without values. Read them before you send them.")
    for each in shapes:
        where = (
            f": {format_count(each.parts, 'part')} in {format_count(each.workflows, 'workflow')}"
            if each.workflows
            else ""
        )
        print_text(f"{each.path}{where}")
        for path, types in each.fields.items():
            print_text(f"  {path}: {types}")
    return 0


class _OptionsBuilder:
    """The options of an import by what the command line says; questions are asked only on a terminal."""

    def __init__(
        self, state: CliContext, root: Path, workflows: int, accounts: str, force: bool, modernize: bool
    ) -> None:
        self._state = state
        self._accounts = accounts
        self._force = force
        self._modernize = modernize
        is_asking = accounts == "ask" and is_interactive(sys.stdin)
        self._prompts = ImportPrompts(state, root=root, workflows=workflows) if is_asking else None

    def __call__(self, base: Path) -> ImportOptions:
        """Return the options for workflows whose relative sources of actions start at *base*."""
        from pdkernel.operations.importer import ImportOptions

        return ImportOptions(
            build_catalog=partial(_catalog, self._state, base),
            ask_accounts=self._answer,
            ask_trigger=self._prompts.ask_trigger if self._prompts is not None else None,
            force=self._force,
            asks_undefined_props=self._accounts == "own",
            modernizes=self._modernize,
        )

    def _answer(self, account_questions: Sequence[AccountQuestion]) -> Mapping[tuple[str, str], str]:
        from pdkernel.operations.importer import answer_questions

        if self._prompts is not None:
            return self._prompts.ask_accounts(account_questions)
        if self._accounts == "ask":
            return {}
        return answer_questions(
            "own" if self._accounts == "own" else "external-user",
            account_questions,
            find_own_accounts=partial(_find_own_accounts, self._state),
        )


def _find_own_accounts(state: CliContext, app: str) -> list[str]:
    """Return the ids of the developer's own accounts of *app*; none without a project."""
    if not state.has_project():
        return []
    return [account.id for account in state.open_directory().accounts(app=app, own=True)]


def _catalog(state: CliContext, base: Path, sidecar: Sidecar, workflow: Workflow) -> Catalog:
    from pdkernel.actions import Catalog

    if not any(
        step.uses for step in workflow.steps
    ):  # nothing is looked up, and opening a project takes longer than an import
        catalog = Catalog.without_project(base, environ=os.environ)
    elif state.has_project():
        catalog = Catalog.for_project(state.open_project(), environ=os.environ)
    else:
        from pdkernel.storage import find_project

        catalog = Catalog.without_project(find_project(Path.cwd()), environ=os.environ)
    return catalog.with_sources(sidecar.actions, base=(sidecar.path.parent if sidecar.path else base).resolve())


def _progress(number: int, count: int, name: str) -> None:
    if count >= PROGRESS_MIN_WORKFLOWS and is_interactive(sys.stderr):
        sys.stderr.write(f"\r\x1b[Kimporting {number} of {count}: {name}")
        sys.stderr.write("\r\x1b[K" if number == count else "")
        sys.stderr.flush()


def _print(done: Sequence[ImportResult]) -> None:
    for one in done:
        if one.error is not None:
            print_text(f"Not imported: {one.folder}: {one.error}", err=True)
            continue
        assert one.state is not None, "it was imported"
        assert one.report is not None, "it was imported"
        label = {"new": "Imported", "unchanged": "Unchanged:", "replaced": "Imported again"}[one.state]
        print_text(f"{label} {one.folder} as {one.notebook}")
        for backup in one.backups:
            print_text(f"  The previous file is now {backup}")
        for rewrite in one.rewrites:
            print_text(f"  Rewritten: {rewrite.step}" if rewrite.difference else f"  Not rewritten: {rewrite.step}")
            print_text(rewrite.difference.rstrip("\n"))
            if rewrite.left:
                print_text(f"  To rewrite in {rewrite.step}:\n{rewrite.left}")
        if len(done) == 1:
            click.echo(one.report.render_text(), nl=False)
        else:
            for line in _summarize_report(one.report):
                print_text(f"  {line}")
    _print_unanswered(done)
    if len(done) > 1:
        failed = sum(one.error is not None for one in done)
        click.echo(f"{len(done) - failed} of {len(done)} workflows imported.")


def _summarize_report(report: ImportReport) -> list[str]:
    """Return the lines of a report in the list of a repository; the notebook contains the whole report."""
    lines = [f"cannot run: {item.name} {item.why}" for item in report.cannot]
    lines += [f"disabled, because its condition is unknown: {each.step} ({each.path})" for each in report.conditions]
    lines += [f"secret prop without a value: {use.step}.{use.prop}" for use in report.secrets]
    return [*lines, *(f"reference: {sentence}" for sentence in report.gone)]


def _print_unanswered(done: Sequence[ImportResult]) -> None:
    unanswered = [(one.notebook, use) for one in done if one.report is not None for use in one.report.unanswered]
    if not unanswered:
        return
    click.echo("The owner of these accounts is unknown:")
    for notebook, use in unanswered:
        print_text(f"  {notebook}: {use.step}.{use.prop} ({use.app}, {use.synced or 'no id'})")
    click.echo(
        "Until you decide, these notebooks can be exported, but not run or served. Edit NAME.pdkernel.yaml, or import again"
    )
    click.echo("with --force and --accounts external-user, or --accounts own.")


class ImportPrompts:
    """
    The questions of one import: the owner of each account, and trigger settings that Git does not hold.

    Each account and each trigger is asked for once. Every question can be left open.

    Args:
        state: The command's context; its project holds the developer's own accounts.
        root: The imported folder; no project is created in it.
        workflows: Number of workflows. For more than one, the first question is whether to ask for triggers.
    """

    def __init__(self, state: CliContext, *, root: Path, workflows: int) -> None:
        self._state = state
        self._root = root
        self._workflows = workflows
        self._answers: dict[tuple[str, str], str] = {}
        self._triggers: dict[str, Trigger | None] = {}

    def ask_accounts(self, questions: Sequence[AccountQuestion]) -> dict[tuple[str, str], str]:
        """Ask *questions* not answered before in this import; return all answers by app and id."""
        for question in questions:
            key = (question.app, question.account_id)
            if key not in self._answers:
                self._answers[key] = self._account(question)
        return self._answers

    def _account(self, question: AccountQuestion) -> str:
        while True:
            choices = self._choices(question)
            self._print_choices(question, choices)
            number = self._number("Owner of the account", len(choices))
            answer = choices[number - 1][0]
            if answer is not None:
                return answer
            try:
                return self._create(question)
            except PdkernelError as error:
                print_text(f"Error: {error}", err=True)

    def _choices(self, question: AccountQuestion) -> list[tuple[str | None, str]]:
        """Answers with their labels; the answer None creates an account."""
        choices: list[tuple[str | None, str]] = [(EXTERNAL_USER, "the external user's account")]
        own = self._directory.accounts(app=question.app, own=True) if self._directory is not None else ()
        choices += [(account.id, f"your own {account.id}  {account.name}".rstrip()) for account in own]
        is_known = question.account_id in {account.id for account in own}
        if self._directory is not None and question.account_id and not is_known:
            choices.append((None, f"your own account; adds it now with the id {question.account_id}"))
        return [*choices, (UNANSWERED, "decide later: the workflow can be exported, but not run")]

    @staticmethod
    def _print_choices(question: AccountQuestion, choices: Sequence[tuple[str | None, str]]) -> None:
        used = [f"{step}.{prop}" for step, prop in question.locations]
        more = f" and {len(used) - _SHOWN_LOCATIONS} more" if len(used) > _SHOWN_LOCATIONS else ""
        print_text(
            f"{question.app}, {question.account_id or 'no id'}: used by {', '.join(used[:_SHOWN_LOCATIONS])}{more}",
            err=True,
        )
        for number, (_, label) in enumerate(choices, start=1):
            print_text(f"  {number}  {label}", err=True)

    @staticmethod
    def _number(words: str, highest: int) -> int:
        return int(click.prompt(words, default=highest, type=click.IntRange(1, highest), err=True))

    def _create(self, question: AccountQuestion) -> str:
        from pdkernel.operations.runs import split_names
        from pdkernel.operations.users import connect_account

        names = click.prompt("Names of its credentials, separated by commas", default="oauth_access_token", err=True)
        credentials = [(name, click.prompt(name, hide_input=True, err=True)) for name in split_names(names)]
        assert self._directory is not None, "without a directory, no choice creates an account"
        account = connect_account(
            self._directory,
            question.app,
            credentials,
            external_user_id=None,
            environment="development",
            account_id=question.account_id,
        )
        return account.id

    @cached_property
    def _directory(self) -> Directory | None:
        """Users and accounts of the project; None if opening it would create a project inside the imported folder."""
        current = Path.cwd().resolve()
        if not self._state.has_project() and current.is_relative_to(self._root.resolve()):
            return None
        return self._state.open_directory()

    @cached_property
    def _asks_triggers(self) -> bool:
        if self._workflows == 1:
            return True
        return bool(
            click.confirm(
                "Pipedream's files do not hold all settings of the triggers. Enter them now", default=False, err=True
            )
        )

    def ask_trigger(self, trigger: Trigger) -> Trigger | None:
        """Ask for the settings of *trigger* that Git does not hold; None keeps assumed settings."""
        trigger_id = str(trigger.config.get("id"))
        asks = {"http": self._http, "schedule": self._schedule, "source": self._source}
        if trigger.type not in asks or not self._asks_triggers:
            return None
        if trigger_id not in self._triggers:
            self._triggers[trigger_id] = asks[trigger.type](trigger, trigger_id)
        return self._triggers[trigger_id]

    @staticmethod
    def _http(trigger: Trigger, trigger_id: str) -> Trigger:
        auth: HttpAuth = click.prompt(
            f"HTTP trigger {trigger_id}: authentication",
            type=click.Choice(["none", "bearer", "oauth"]),
            default="none",
            err=True,
        )
        token = None
        if auth == "bearer":
            token = click.prompt("Environment variable that contains the token", err=True)
        response: ResponseMode = click.prompt(
            "Response, from the platform (default) or the workflow (custom)",
            type=click.Choice(["default", "custom"]),
            default=trigger.response,
            err=True,
        )
        return replace(trigger, auth=auth, token_env=token, response=response)

    @staticmethod
    def _schedule(trigger: Trigger, trigger_id: str) -> Trigger | None:
        schedule = click.prompt(
            f"Schedule {trigger_id}: a cron expression or a number of seconds (empty: unknown)",
            default="",
            show_default=False,
            err=True,
        ).strip()
        if not schedule:
            return None
        setting = {"interval_seconds": int(schedule)} if schedule.isdecimal() else {"cron": schedule}
        zone = click.prompt("Time zone", default="UTC", err=True).strip()
        return replace(trigger, config={**trigger.config, **setting, "timezone": zone})

    @staticmethod
    def _source(trigger: Trigger, trigger_id: str) -> Trigger | None:
        uses = click.prompt(
            f"Event source {trigger_id}: component KEY@VERSION, or errors for errors of other workflows (empty: unknown)",
            default="",
            show_default=False,
            err=True,
        ).strip()
        if uses == "errors":
            return replace(trigger, type="errors")
        return replace(trigger, config={**trigger.config, "uses": uses}) if uses else None

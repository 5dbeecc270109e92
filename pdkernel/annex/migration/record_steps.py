"""
Steps that record what a workflow does at Pipedream: written into synced folders, taken out again, or as text to paste.

A start step records the event; an end step records the exports of all steps. A run without a record of its end stopped before the
last step. The steps are Node.js without packages; `templates/record_step.mjs` is their code. They can be written on a Git branch, for a
merge into the branch that Pipedream deploys.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pdkernel.common.encode import JsonStruct
from pdkernel.common.secret_patterns import (
    CREDENTIAL_FORMS,
    RECORDED_FIELD,
    RECORDED_HEADER,
    RECORDED_VARIABLE,
    REDACTED,
)
from pdkernel.errors import PdkernelError, RequestError, format_count
from pdkernel.files.definition import read_folder_workflow
from pdkernel.files.definition.file_plan import WORKFLOW_FILE
from pdkernel.files.definition.folder_write import check_write_paths, write_files_atomically
from pdkernel.files.definition.workflow_document import WorkflowDocument, read_document
from pdkernel.files.source import find_sources
from pdkernel.language.analysis import find_app_bindings, needs_step, responds
from pdkernel.language.directive import patch_yaml
from pdkernel.model import JSON, Workflow

Part = Literal["start", "end"]
RECORD_PREFIX = "pd_record_"
START_STEP = f"{RECORD_PREFIX}start"
END_STEP = f"{RECORD_PREFIX}end"
STORE_PROP = f"{RECORD_PREFIX}store"
RECORD_FORMAT = "pdkernel-record/1"
LAST_DAY = "2027-03-31"
"""The last day of Workflows at Pipedream."""
MAX_CHARACTERS = 256 * 1024
MAX_STORE_KEYS = 1000
"""Keys that the steps use in a data store: the documentation names 1,024 for the smallest plan (2023)."""
_MAX_CREDENTIAL_CHARS = 512
_PRIVATE_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
"""A private key with all its lines, in JavaScript."""
_RUNTIME = "nodejs20.x"
_FOLDER_ID = re.compile(r"-(p_[A-Za-z0-9]{4,})\Z")
_PATH_PART = re.compile(r"\.?([^.\[\]]+)|\[(?:'([^']*)'|\"([^\"]*)\"|(\d+|\*))\]")


class RecordSettings(JsonStruct, frozen=True):
    """
    What the recording steps record, and where they send it.

    Attributes:
        url: The URL of the receiver, or None for a data store.
        token: The token that the receiver expects; it permits to add records.
        store: The id of the data store (`ds_...`), or None to choose it in the builder.
        every: One run of so many is recorded.
        first_a_day: The maximum number of recorded runs of a workflow a day, or None.
        max_characters: The size limit of the exports of a run, and of its event, as JSON.
        until: The day (`YYYY-MM-DD`, UTC) from which the steps do nothing.
        redacted_paths: Paths whose values are hidden: `event.body.email`, `steps.read.$return_value.rows[*].name`.
        store_keys: The number of keys that the steps use in the data store.
    """

    url: str | None = None
    token: str = ""
    store: str | None = None
    every: int = 1
    first_a_day: int | None = None
    max_characters: int = MAX_CHARACTERS
    until: str = LAST_DAY
    redacted_paths: tuple[str, ...] = ()
    store_keys: int = MAX_STORE_KEYS


@dataclass(frozen=True, slots=True)
class RecordedFolder:
    """
    What was done with one workflow's folder.

    Attributes:
        folder: The folder.
        name: The workflow's name, or the folder's.
        workflow_id: Pipedream's id, or None.
        changed: Paths of the files that were written or removed.
        notes: Sentences about limits of the record.
        refusal: Why the folder was left as it is, or None.
    """

    folder: Path
    name: str
    workflow_id: str | None = None
    changed: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str | None = None


def create_token() -> str:
    """Return a new token for the receiver."""
    return secrets.token_urlsafe(24)


def find_folders(root: Path) -> tuple[Path, ...]:
    """
    Return the folders of workflows at or below *root*.

    Raises:
        NotebookError: There is none.
        RequestError: There are only notebooks.
    """
    found = tuple(path for path in find_sources(root) if (path / WORKFLOW_FILE).is_file())
    if not found:
        raise RequestError(
            f"{root} has no workflow that Pipedream synced.", fix="Name a clone of the repository that Pipedream syncs."
        )
    return found


def plan_steps(folder: Path, settings: RecordSettings) -> tuple[RecordedFolder, dict[str, bytes]]:
    """
    Plan the two steps in *folder*; nothing is written.

    Returns:
        The result, and the content of the files by path in *folder*; no files if the folder is refused.
    """
    try:
        document = read_document(folder)
        workflow = read_folder_workflow(folder, require_code=False, assumed_account="own", unanswered_policy="keep")
        files = _plan_files(document, workflow, settings)
    except PdkernelError as error:
        return RecordedFolder(folder, folder.name, refusal=" ".join(str(error).split())), {}
    return (
        RecordedFolder(
            folder,
            workflow.name,
            find_workflow_id(document),
            tuple(folder / path for path in files),
            tuple(_find_notes(workflow, settings)),
        ),
        files,
    )


def add_steps(folder: Path, settings: RecordSettings) -> RecordedFolder:
    """
    Write the two steps into *folder*. A folder that has them gets them anew.

    Raises:
        RequestError: The folder cannot be written; it is unchanged.
    """
    planned, files = plan_steps(folder, settings)
    if files:
        write_files_atomically(files, folder)
    return planned


def remove_steps(folder: Path) -> RecordedFolder:
    """
    Take the two steps out of *folder*; every other byte stays.

    Raises:
        RequestError: The folder cannot be written.
    """
    try:
        document = read_document(folder)
        cleaned = _without_steps(document.text, document)
    except PdkernelError as error:
        return RecordedFolder(folder, folder.name, refusal=" ".join(str(error).split()))
    name = str(document.data.get("name") or folder.name)
    changed = []
    if cleaned != document.text:
        write_files_atomically({WORKFLOW_FILE: (document.byte_order_mark + cleaned).encode()}, folder)
        changed.append(folder / WORKFLOW_FILE)
    for step in (START_STEP, END_STEP):
        entry = folder / step / "entry.js"
        if entry.is_file() and not entry.is_symlink():
            entry.unlink()
            changed.append(entry)
            if not any(entry.parent.iterdir()):
                entry.parent.rmdir()
    return RecordedFolder(folder, name, find_workflow_id(document), tuple(changed))


def find_workflow_id(document: WorkflowDocument) -> str | None:
    """Return Pipedream's id of the workflow, of `.workflow.state` or of the folder's name."""
    named = _FOLDER_ID.search(document.folder.resolve().name)
    return document.id or (named[1] if named else None)


def build_step(
    part: str,
    settings: RecordSettings,
    *,
    workflow_id: str | None,
    version: str | None = None,
    accounts: Sequence[tuple[str, str]] = (),
    branches: Sequence[str] = (),
) -> str:
    """
    Return the code of a recording step.

    Args:
        part: `start`, `end`, or the name of a branch, for the step at the branch's end.
        settings: What is recorded.
        workflow_id: Pipedream's id; None takes it from the run.
        version: The version of the workflow's files.
        accounts: Props and app slugs of accounts whose credentials the step must hide.
        branches: The branches that have a recording step at their end, for the step at the start.
    """
    props = [f"    {prop}: {{ type: 'app', app: {json.dumps(app)} }}," for prop, app in accounts]
    if settings.url is None:
        props.append(f"    {STORE_PROP}: {{ type: 'data_store', label: 'Store of the records' }},")
    is_branch = part not in ("start", "end")
    result = ["    return result;"]
    if is_branch:  # a block returns what the last step of the branch exports
        result = [
            "    // the block hands on the exports of the branch's last step, which is this step now",
            "    const before = steps[Object.keys(steps).filter((name) => name !== 'trigger').at(-1)] ?? {};",
            "    for (const [name, value] of Object.entries(before)) if (name !== '$return_value') $.export(name, value);",
            "    return before.$return_value;",
        ]
    names = {
        "what": {"start": "the event", "end": "the exports of all steps"}.get(
            part, f"the exports of the branch {part}"
        ),
        "part": json.dumps(f"branch/{part}" if is_branch else part),
        "workflow": json.dumps(workflow_id),
        "version": json.dumps(version),
        "branches": json.dumps(list(branches)),
        "until": json.dumps(settings.until),
        "max_characters": str(settings.max_characters),
        "sample": _object(every=settings.every, first_a_day=settings.first_a_day),
        "sink": _object(url=settings.url, token=settings.token)
        if settings.url
        else _object(max_runs=_max_stored_runs(settings)),
        "paths": json.dumps([parse_path(path) for path in settings.redacted_paths]),
        "props": "\n".join(props),
        "result": "\n".join(result),
        "mark": json.dumps(REDACTED),
        "field": f"/{RECORDED_FIELD}/i",
        "header": f"/^{RECORDED_HEADER}/",
        "name": f"/{RECORDED_VARIABLE}/i",
        "credentials": "|".join([_PRIVATE_KEY, *(_bound(form.pattern) for _, form in CREDENTIAL_FORMS)]),
    }
    template = (
        resources.files("pdkernel.annex.migration").joinpath("templates", "record_step.mjs").read_text(encoding="utf-8")
    )
    return re.sub(r"\{\{(\w+)\}\}", lambda found: names[found[1]], template)


def parse_path(path: str) -> list[str]:
    """
    Return the parts of a path of `--redact`, beginning with `event`, `context` or `steps`.

    Raises:
        RequestError: It is not a path, or begins elsewhere.
    """
    parts, end = [], 0
    for found in _PATH_PART.finditer(path):
        if found.start() != end:
            break
        end = found.end()
        parts.append(next(each for each in found.groups() if each is not None))
    if parts[:2] == ["steps", "trigger"]:
        parts = parts[2:]
    if end != len(path) or len(parts) < 2 or parts[0] not in ("event", "context", "steps"):
        raise RequestError(
            f"{path!r} is not a path of a record.",
            fix="Write a path such as event.body.email, or steps.read.$return_value.rows[*].name.",
        )
    return parts


def iter_pasted_steps(
    settings: RecordSettings, *, workflow_id: str | None, branches: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield the steps for the builder: the name of each, where it goes, and its code."""
    common = "Add a Node.js code step, name it {name}, replace its code, and click Refresh fields."
    yield (
        START_STEP,
        f"Directly below the trigger. {common.format(name=START_STEP)}",
        build_step("start", settings, workflow_id=workflow_id, branches=branches),
    )
    for branch in branches:
        name = f"{RECORD_PREFIX}{re.sub('[^A-Za-z0-9]+', '_', branch).strip('_')}"
        yield (
            name,
            f"As the last step of the branch {branch}, in the block. {common.format(name=name)}",
            build_step(branch, settings, workflow_id=workflow_id),
        )
    yield (
        END_STEP,
        f"As the last step of the workflow, below all blocks. {common.format(name=END_STEP)}",
        build_step("end", settings, workflow_id=workflow_id),
    )


def _bound(pattern: str) -> str:
    """Return *pattern* with an upper bound for each repetition, so that no text is searched in quadratic time."""
    return re.sub(r"\{(\d+),\}", rf"{{\1,{_MAX_CREDENTIAL_CHARS}}}", pattern)


def _object(**items: JSON) -> str:
    return f"{{ {', '.join(f'{name}: {json.dumps(value)}' for name, value in items.items())} }}"


def _max_stored_runs(settings: RecordSettings) -> int:
    """Return the runs for which the store has keys: a run has two, and a part is left for counts and the ends of branches."""
    return max(1, settings.store_keys * 2 // 5)


def _plan_files(document: WorkflowDocument, workflow: Workflow, settings: RecordSettings) -> dict[str, bytes]:
    before = _without_steps(document.text, document)
    data: dict[str, Any] = dict(document.data)
    steps = _own_steps(data)
    if not steps:
        raise RequestError("There is no step to record.")
    accounts = _find_accounts(workflow)
    end_props: dict[str, JSON] = {prop: {"authProvisionId": account} for prop, (account, _) in accounts.items()}
    store_props: dict[str, JSON] = {STORE_PROP: {"storeId": settings.store}} if settings.store else {}
    changed = {
        **data,
        "steps": [_entry(START_STEP, store_props), *steps, _entry(END_STEP, {**end_props, **store_props})],
    }
    alignment = [None, *range(len(steps)), None]
    text = patch_yaml(before, {**data, "steps": steps}, changed, name=WORKFLOW_FILE, alignments={("steps",): alignment})
    if _remove_entries(text, changed) != before:
        raise RequestError(
            f"{WORKFLOW_FILE} has a form in which the steps could not be taken out byte for byte.",
            fix="Paste the steps in the builder: pdkernel migrate record --print",
        )
    own = {START_STEP, END_STEP}
    version = _version_without(workflow, own)
    workflow_id = find_workflow_id(document)
    slugs = [(prop, app) for prop, (_, app) in accounts.items()]
    # the start has no accounts: a broken account must not end a run before the step that uses the account
    entries = {
        START_STEP: build_step("start", settings, workflow_id=workflow_id, version=version),
        END_STEP: build_step("end", settings, workflow_id=workflow_id, version=version, accounts=slugs),
    }
    files = {f"{step}/entry.js": code.encode() for step, code in entries.items()}
    check_write_paths([WORKFLOW_FILE, *files], document.folder)
    return {WORKFLOW_FILE: (document.byte_order_mark + text).encode(), **files}


def _entry(step: str, props: dict[str, JSON]) -> dict[str, JSON]:
    entry: dict[str, JSON] = {"namespace": step, "runtime": _RUNTIME, "uses": f"./{step}/entry.js"}
    return {**entry, "props": props} if props else entry


def _own_steps(data: dict[str, Any]) -> list[Any]:
    """Return the workflow's steps without the recording steps."""
    return [step for step in data.get("steps") or [] if not _is_recording(step)]


def _is_recording(step: object) -> bool:
    return isinstance(step, dict) and step.get("namespace") in (START_STEP, END_STEP)


def _without_steps(text: str, document: WorkflowDocument) -> str:
    """Return the text of `workflow.yaml` without the recording steps."""
    return _remove_entries(text, document.data)


def _remove_entries(text: str, data: dict[str, Any]) -> str:
    old = data.get("steps") or []
    kept = [place for place, step in enumerate(old) if not _is_recording(step)]
    if len(kept) == len(old):
        return text
    new = {**data, "steps": [old[place] for place in kept]}
    return patch_yaml(text, data, new, name=WORKFLOW_FILE, alignments={("steps",): kept})


def _find_accounts(workflow: Workflow) -> dict[str, tuple[str, str]]:
    """For each account that an enabled step names by id: a prop of the end step, the id and the app."""
    found: dict[str, tuple[str, str]] = {}
    for step in workflow.steps:
        for binding in find_app_bindings(step) if not step.disabled and not step.name.startswith(RECORD_PREFIX) else ():
            account = binding.account
            if (
                account is not None
                and account.startswith("apn_")
                and account not in {each for each, _ in found.values()}
            ):
                found[f"account_{len(found) + 1}"] = (account, binding.app)
    return found


def _version_without(workflow: Workflow, names: set[str]) -> str:
    return workflow.without_steps(names).version


def _find_notes(workflow: Workflow, settings: RecordSettings) -> Iterator[str]:
    if settings.url is None and settings.store is None:
        yield (
            f"Nothing is recorded until you choose a data store in the builder, the same one in {START_STEP} and {END_STEP}, and deploy."
        )
    own = [step for step in workflow.steps if not step.disabled and not step.name.startswith(RECORD_PREFIX)]
    if whole := [step.name for step in own if needs_step(step, START_STEP)]:
        yield (
            f"{', '.join(whole)} may read the exports of all steps, and would see the step {START_STEP}, too. Look at the "
            "code before you merge."
        )
    limit = workflow.settings.get("lambda_timeout")
    if isinstance(limit, int) and limit < 10:
        yield f"The time limit of the workflow is {limit} s, and the recording steps may take up to 4 s of it."
    if responding := [step.name for step in own if responds(step) != "never"]:
        yield (
            f"The response that {', '.join(responding)} may send ($.respond) is not visible to a later step, so it is not recorded. Return it "
            "from the step, too, to have it compared."
        )
    users = sorted({binding.app for step in own for binding in find_app_bindings(step) if binding.account is None})
    if users:
        yield (
            f"Accounts of external users ({', '.join(users)}) are not visible to a recording step: name fields that may hold "
            "their credentials with --redact."
        )


# ── what the platform permits ──────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RecordEstimate:
    """
    What recording costs at most.

    Attributes:
        workflows: The number of workflows.
        days: Days until the steps stop.
        runs_a_day: Recorded runs a day of all workflows, or None if unknown.
        runs: Recorded runs until the end, or None if unknown.
        megabytes: Their size at most, or None if unknown.
        store_runs: Runs for which the data store has keys, or None for a receiver.
    """

    workflows: int
    days: int
    runs_a_day: int | None
    runs: int | None
    megabytes: float | None
    store_runs: int | None

    def explain(self) -> list[str]:
        """Return the estimate in sentences."""
        lines = [f"{format_count(self.workflows, 'workflow')}, {format_count(self.days, 'day')} until the steps stop."]
        if self.runs is None:
            lines.append("Recorded runs: unknown, because no limit a day is set. Set one with --first N.")
        else:
            lines.append(
                f"At most {format_count(self.runs_a_day or 0, 'recorded run')} a day, {self.runs:,} in all, with up to "
                f"{self.megabytes:,.1f} MB."
            )
        if self.store_runs is not None:
            lines.append(
                f"The data store takes {format_count(self.store_runs, 'run')}: a run needs two keys, and the documentation names "
                "1,024 keys for the smallest plan. After that the steps stop. `migrate data` downloads the records."
            )
        lines.append(
            "Credits: Pipedream charges one for each 30 s of compute time (at 256 MB) of a segment. The two steps take "
            "milliseconds and at most 4 s, so a run costs one credit more only if it crosses a multiple of 30 s because of them."
        )
        return lines


def estimate(settings: RecordSettings, *, workflows: int, today: date) -> RecordEstimate:
    """Compute what recording *workflows* from *today* on costs at most."""
    days = max(0, (date.fromisoformat(settings.until) - today).days)
    a_day = None if settings.first_a_day is None else settings.first_a_day * workflows
    stored = _max_stored_runs(settings) if settings.url is None else None
    runs = None if a_day is None else a_day * days
    if stored is not None:
        runs = stored if runs is None else min(runs, stored)
    size = None if runs is None else runs * 2 * settings.max_characters / 1e6
    return RecordEstimate(workflows, days, a_day, runs, size, stored)


DEPLOYED_BRANCH = "production"
"""The branch whose pushes Pipedream deploys."""
ADD_BRANCH = "pdkernel-record"
REMOVE_BRANCH = "pdkernel-record-remove"
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class RecordBranch:
    """
    A branch of the repository of a folder.

    Attributes:
        root: The repository's work tree.
        name: The branch's name.
        previous: The branch that was checked out before, or its commit.
    """

    root: Path
    name: str
    previous: str

    def commit(self, paths: Iterable[Path], message: str) -> None:
        """
        Commit *paths*, also removed ones, on the branch.

        Raises:
            RequestError: Git refuses the commit.
        """
        relative = sorted({str(path.resolve().relative_to(self.root)) for path in paths})
        _git(self.root, "add", "--all", "--", *relative)
        identity = (
            [] if _has_identity(self.root) else ["-c", "user.name=pdkernel", "-c", "user.email=pdkernel@localhost"]
        )
        _git(self.root, *identity, "commit", "--quiet", "--message", message, "--", *relative)

    def abandon(self) -> None:
        """Check out the previous branch, and remove this one, which has no commit of its own."""
        if self.name != self.previous:
            _git(self.root, "switch", "--quiet", *self._previous_words())
            _git(self.root, "branch", "--quiet", "--delete", "--force", self.name)

    def _previous_words(self) -> list[str]:
        return ["--detach", "@{-1}"] if self.previous == "HEAD" else [self.previous]

    def explain_merge(self) -> list[str]:
        """Return what is left to do, as lines of text."""
        return [
            (
                f"Committed to the branch {self.name}; {self.previous} is unchanged. Review it, and merge it into {DEPLOYED_BRANCH}, which "
                "Pipedream deploys:"
            ),
            f"  git push origin {self.name}",
            (
                f"  Open a pull request from {self.name} to {DEPLOYED_BRANCH}, or: git switch {DEPLOYED_BRANCH} && git merge {self.name} "
                "&& git push"
            ),
            "  Pipedream deploys every changed workflow of the push. In the builder, look at one: the new steps are at its start and end.",
        ]


def open_branch(folder: Path, name: str) -> RecordBranch | None:
    """
    Check out a new branch *name* of the repository of *folder*; None if the folder is not in a repository.

    Raises:
        RequestError: The folder has changes that are not committed, or the branch exists.
    """
    try:
        root = Path(_git(folder, "rev-parse", "--show-toplevel").strip()).resolve()
        previous = _git(folder, "rev-parse", "--abbrev-ref", "HEAD").strip()
    except (RequestError, FileNotFoundError):
        return None  # not a repository, one without a commit, or a machine without Git
    if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".").strip():
        raise RequestError(
            f"{folder} has changes that are not committed, which would become part of the branch.",
            fix="Commit or stash them, or pass --no-branch to write the files only.",
        )
    if previous == name:
        return RecordBranch(root, name, previous)
    if _git(root, "branch", "--list", name).strip():
        raise RequestError(
            f"The branch {name} exists.", fix=f"Delete it (git branch -D {name}), or name another one: --branch NAME"
        )
    _git(root, "switch", "--quiet", "--create", name)
    return RecordBranch(root, name, previous)


def _has_identity(root: Path) -> bool:
    try:
        return bool(_git(root, "config", "user.email").strip())
    except RequestError:
        return False


def _git(folder: Path, *words: str) -> str:
    command: Sequence[str] = ("git", "-C", str(folder), *words)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())
        raise RequestError(f"git {words[0]} failed: {reason}")
    return done.stdout

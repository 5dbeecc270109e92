"""
Reads the platform's JSON of a workflow: the REST API's object (`GET /workflows/{id}`), and a workflow of the official archive.

The form inside the archive is documented in words only. A step is therefore recognised by what it has, at any depth. Every other
object or list is an unknown part, which is kept whole with its JSON path. What such a part means is never guessed: a step inside
of it, or that it names, is disabled, because its condition is unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pdkernel.errors import NotebookError, RequestError, StepNameError
from pdkernel.files.definition.entry_file import RUNTIME_NAMES
from pdkernel.files.definition.file_plan import WORKFLOW_SCHEMA
from pdkernel.files.definition.step_props import CONFIGURABLE_PROPS_KEY, STORE_KEY, parse_props
from pdkernel.files.definition.synced_folder import TRIGGER_TYPES, assume_trigger, is_rule_filter_props
from pdkernel.language.analysis import find_declared_apps
from pdkernel.language.analysis.secret_props import ENCRYPTED_VALUE_KEY
from pdkernel.language.directive import is_action_reference
from pdkernel.language.expression import RULE_FILTER
from pdkernel.model import (
    ACCOUNT_KEY,
    JSON,
    ROUND_TRIP_KEY,
    Language,
    Step,
    Trigger,
    UnsupportedEntry,
    Workflow,
    check_step_name,
)

ENDPOINT_URL_KEY = "endpoint_url"
"""The key of `Trigger.config` for the URL of the trigger's endpoint at Pipedream."""
REDACTED = "<redacted>"
"""The text in place of a secret prop's value (documentation page on exports)."""
MAX_DEPTH = 100
"""The depth to which the lists and objects of a workflow may be nested."""
MAX_ENTRIES = 10_000
"""The number of steps and unknown parts of a workflow; a notebook of 2 MB holds fewer."""
UNREAD_KEY = "unread"
"""The key under `ROUND_TRIP_KEY` for what the platform's JSON has and pdkernel does not read, of a workflow by its JSON path."""
_LANGUAGES: Mapping[str, Language] = {"nodejs": "node", "python": "python", "golang": "go", "go": "go", "bash": "bash"}
_WORKFLOW_ID = re.compile(r"p_[A-Za-z0-9]{4,}\Z")
_ID = re.compile(r"[A-Za-z0-9_-]+\Z")
_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$]*\Z")
_EXPRESSION = re.compile(r"\{\{|\bsteps\s*[.\[]|\bevent\s*[.\[]")
_NAMING_KEYS = frozenset({"id", "key", "name", "namespace", "slug", "uuid"})
"""Keys by whose values other parts of a workflow may name an unknown part."""
_PROP_KEYS = ("params_json", "configured_props_json", "configured_props")
STEP_KEYS = frozenset(
    {
        *(
            "id",
            "type",
            "namespace",
            "disabled",
            "lang",
            "notes",
            "note",
            "code",
            "code_raw",
            "codeRaw",
            "codeConfigJson",
        ),
        *(
            "text_raw",
            "flat_params_visibility_json",
            "component",
            "component_key",
            "component_owner_id",
            "savedComponent",
        ),
        *("appConnections", "authProvisionIdMap", "authProvisionIds", *_PROP_KEYS),
    }
)
"""The keys of a step in responses of the REST API (its documentation, and public clients)."""
_TRIGGER_KEYS = frozenset(
    {
        *("id", "key", "endpoint_url", "custom_response", "type", "name", "name_slug", "active", "owner_id"),
        *("component_id", "component_key", "created_at", "updated_at", "configured_props", "configured_props_json"),
    }
)


def read_api_workflow(item: Mapping[str, Any], workflow_id: str) -> Workflow:
    """
    Return the workflow in *item*, a response of the REST API; see `read_workflow_json`.

    Raises:
        RequestError: *item* is not a workflow.
    """
    if not isinstance(item.get("steps"), list) or not isinstance(item.get("triggers"), list):
        raise RequestError(f"Pipedream's response for {workflow_id} is not a workflow: it has no steps or no triggers.")
    try:
        return read_workflow_json(item, workflow_id, workflow_id=workflow_id)
    except NotebookError as error:
        raise RequestError(f"Pipedream's response for {workflow_id} {error.message}") from None


def read_workflow_json(
    document: JSON | Mapping[str, Any], name: str, *, workflow_id: str | None = None, ignored: Collection[str] = ()
) -> Workflow:
    """
    Return the workflow in *document*. Accounts are those of the workspace.

    Unknown parts that hold or name steps are unsupported entries, in their place. The other ones are in `extra`, under
    `UNREAD_KEY`. An HTTP trigger has the URL of its endpoint under `ENDPOINT_URL_KEY`.

    Args:
        document: The platform's JSON.
        name: The name of a workflow that has none.
        workflow_id: The platform's id, if *document* does not have it.
        ignored: Keys without a meaning for when steps run, as the user says: their values are kept, and disable no step.

    Raises:
        NotebookError: *document* holds no workflow, or too many steps, or is nested too deeply. The message is the rest of a sentence that begins
            with the name of the source.
    """
    if _is_deeper(document, MAX_DEPTH):
        raise NotebookError(f"is nested deeper than {MAX_DEPTH} levels.")
    keys, main = _find_main(document)
    if main is None:
        raise NotebookError("is not a workflow: it has neither steps nor triggers.")
    own_id = main.get("id")
    found_id = own_id if isinstance(own_id, str) and _WORKFLOW_ID.match(own_id) else workflow_id
    reader = _Reader(found_id or name, frozenset(ignored))
    reader.read(document, keys, main)
    settings = main.get("settings")
    raw_triggers = main.get("triggers")
    bookkeeping: dict[str, JSON] = {"id": found_id} if found_id else {}
    if reader.unread:
        bookkeeping[UNREAD_KEY] = reader.unread
    steps = reader.finish_steps()
    return Workflow(
        name=str(main.get("name") or (settings.get("name") if isinstance(settings, dict) else None) or name),
        triggers=tuple(
            _read_trigger(raw, steps)
            for raw in (raw_triggers if isinstance(raw_triggers, list) else ())
            if isinstance(raw, dict)
        ),
        steps=tuple(steps),
        settings={key: value for key, value in settings.items() if key != "name" and key not in reader.kept_settings}
        if isinstance(settings, dict)
        else {},
        origin=found_id or name,
        extra={
            "schema": WORKFLOW_SCHEMA,
            **({ROUND_TRIP_KEY: bookkeeping} if bookkeeping else {}),
            **({"inactive": True} if main.get("active") is False or main.get("inactive") is True else {}),
        },
    ).with_unsupported_entries(reader.entries)


def _is_deeper(value: object, depth: int) -> bool:
    """Return whether lists and objects of *value* are nested deeper than *depth*; without recursion."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, Mapping) else each if isinstance(each, list) else ())
            if isinstance(item, Mapping | list)
        ]
        if not level:
            return False
    return True


def _find_main(document: object) -> tuple[tuple[str, ...], Mapping[str, Any] | None]:
    """Return the keys to the outermost object with a list of steps or triggers; without one, to *document* if steps are in it."""
    level: list[tuple[tuple[str, ...], object]] = [((), document)]
    while level:
        deeper: list[tuple[tuple[str, ...], object]] = []
        for keys, value in level:
            if not isinstance(value, Mapping):
                continue
            is_block = bool(keys) and _has_namespace(value)
            if not is_block and any(isinstance(value.get(key), list) for key in ("steps", "triggers")):
                return keys, value
            deeper += [((*keys, key), item) for key, item in value.items() if key != "settings"]
        level = deeper
    has_steps = isinstance(document, Mapping) and next(_iter_steps("$", document), None) is not None
    return (), document if has_steps else None  # type: ignore[return-value]


def _join(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if _PLAIN_KEY.match(key) else f"{path}[{json.dumps(key, ensure_ascii=False)}]"


def _has_namespace(raw: Mapping[str, Any]) -> bool:
    return isinstance(raw.get("namespace"), str) and bool(raw["namespace"])


def _get_saved(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    saved = raw.get("savedComponent")
    return saved if isinstance(saved, dict) else {}


def _get_code(raw: Mapping[str, Any]) -> str | None:
    found = (_get_saved(raw).get("code"), raw.get("code"), raw.get("codeRaw"), raw.get("code_raw"))
    return next((value for value in found if isinstance(value, str)), None)


def _is_runnable(raw: Mapping[str, Any]) -> bool:
    """Return whether *raw* has code or a component."""
    key = raw.get("component_key")
    return _get_code(raw) is not None or bool(_get_saved(raw)) or (isinstance(key, str) and bool(key))


def is_step_json(value: object) -> bool:
    """Return whether *value* is a step: it has a name and code, a component or configured props, and is not only a container."""
    if not isinstance(value, dict) or not _has_namespace(value):
        return False
    if _is_runnable(value):
        return True
    has_props = any(key in value for key in ("configured_props_json", "configured_props"))
    return has_props and value.get("type") in (None, "CodeCell") and not any(_iter_unknown("", value, STEP_KEYS))


def _iter_unknown(path: str, raw: Mapping[str, Any], known: Collection[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield path, key and value of each list and object of *raw* that is not empty and whose key is not *known*."""
    for key, value in raw.items():
        if key not in known and isinstance(value, dict | list) and value:
            yield _join(path, key), key, value


def _iter_steps(path: str, value: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield path and object of each step in *value*, at any depth; values of props are not searched."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _iter_steps(_join(path, index), item)
    elif isinstance(value, Mapping):
        is_step = is_step_json(value)
        if is_step:
            yield path, value
        for inner, _, item in _iter_unknown(path, value, STEP_KEYS if is_step else _PROP_KEYS):
            yield from _iter_steps(inner, item)


def shorten_steps(value: Any) -> Any:
    """Return *value* for a reader: each step in it has only its name and what is not documented."""
    if isinstance(value, list):
        return [shorten_steps(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    shown = (
        {key for key in value if key == "namespace" or key not in STEP_KEYS} if is_step_json(value) else value.keys()
    )
    return {key: shorten_steps(item) for key, item in value.items() if key in shown}


def _iter_texts(value: object) -> Iterator[tuple[str, str]]:
    """Yield each text in *value* with its key, also of objects that are stored as JSON text."""
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        key, item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += item.items()
        elif isinstance(item, list):
            waiting += [(key, each) for each in item]
        elif isinstance(item, str):
            yield key, item
            if item[:1] in ("{", "["):
                waiting.append((key, read_json_text(item)))


def read_json_text(text: str) -> object:
    """Return the object or list in *text*, which is JSON; else None."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) and not _is_deeper(found, MAX_DEPTH) else None


@dataclass
class _Reader:
    """
    Reads the steps and unknown parts of one workflow, in the order of the JSON.

    Attributes:
        source: The workflow's id, or its name: its redacted values are secrets of their own.
        ignored: As for `read_workflow_json`.
        entries: Unknown parts that may decide when steps run, and steps that cannot be represented.
        unread: Other unknown parts, by path.
        kept_settings: Keys of `settings` that are entries.
    """

    source: str
    ignored: frozenset[str]
    entries: list[UnsupportedEntry] = field(default_factory=list)
    unread: dict[str, JSON] = field(default_factory=dict)
    kept_settings: set[str] = field(default_factory=set)
    _steps: dict[str, Step] = field(default_factory=dict)
    _raw: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _conditions: dict[str, str] = field(default_factory=dict)
    _deciding: list[tuple[str, object]] = field(default_factory=list)
    _names: frozenset[str] = frozenset()

    def read(self, document: object, keys: tuple[str, ...], main: Mapping[str, Any]) -> None:
        """Read *document*, whose workflow is *main* below *keys*."""
        self._names = frozenset(
            str(raw[key]) for _, raw in _iter_steps("$", document) for key in ("id", "namespace") if raw.get(key)
        )
        path, around = "$", document
        beside: list[tuple[str, str, Any]] = []
        for key in keys:
            assert isinstance(around, Mapping), "the keys of main lead through objects"
            beside += _iter_unknown(path, around, (key,))
            path, around = _join(path, key), around[key]
        known = {key for key in ("steps", "triggers") if isinstance(main.get(key), list)}
        for index, item in enumerate(main["steps"] if "steps" in known else ()):
            self._read_entry(_join(_join(path, "steps"), index), item)
        for index, item in enumerate(main["triggers"] if "triggers" in known else ()):
            self._read_trigger_parts(_join(_join(path, "triggers"), index), item)
        if isinstance(main.get("settings"), dict):
            known.add("settings")
            for inner, key, value in _iter_unknown(_join(path, "settings"), main["settings"], ()):
                if self._may_decide(key, value):
                    self.kept_settings.add(key)
                    self._keep(inner, value)
        for inner, key, value in (*_iter_unknown(path, main, known), *beside):
            self._read_part(inner, key, value)

    def _read_entry(self, path: str, item: object) -> None:
        """Read an item of the list of steps."""
        if not isinstance(item, dict | list) or not item:
            return
        if not isinstance(item, dict) or not is_step_json(item):
            self._keep(path, item)
            return
        is_added, name = self._add_step(path, item), str(item["namespace"])
        for inner, key, value in _iter_unknown(path, item, STEP_KEYS):
            if not is_added:
                self._add_steps(inner, value)  # the entry of the step contains the part
            elif key not in self.ignored and next(_iter_texts(value), None) is not None:
                self._conditions.setdefault(name, inner)
                self._keep(inner, value)
            else:
                self._read_part(inner, key, value)
        for key, value in item.items() if is_added else ():
            if isinstance(value, str) and key not in (*STEP_KEYS, *self.ignored) and _EXPRESSION.search(value):
                self._conditions.setdefault(name, _join(path, key))
                self._keep(_join(path, key), value)

    def _read_trigger_parts(self, path: str, item: object) -> None:
        if isinstance(item, list) and item:
            self._read_part(path, "", item)
        elif isinstance(item, dict):
            for inner, key, value in _iter_unknown(path, item, _TRIGGER_KEYS):
                self._read_part(inner, key, value)
            for key in ("configured_props", "configured_props_json"):
                props = _read_object(item.get(key))
                if props and not any(isinstance(value, dict) and _is_timer(value) for value in props.values()):
                    self.unread[_join(path, key)] = props  # of an event source

    def _may_decide(self, key: str, value: object) -> bool:
        """Return whether an unknown part may decide when steps run: it holds a step, or names one."""
        if next(_iter_steps("", value), None) is not None:
            return True
        return key not in self.ignored and any(text in self._names for _, text in _iter_texts(value))

    def _read_part(self, path: str, key: str, value: Any) -> None:
        self._check_count()
        if self._may_decide(key, value):
            self._keep(path, value)
        else:
            self.unread[path] = value

    def _keep(self, path: str, value: Any) -> None:
        """Keep *value* as an unsupported entry; steps inside of it are disabled steps below it."""
        # parity[archive]: the form of control flow in an archive is documented in words only, so it is never guessed
        self._add_entry(
            path, value, f"is unknown ({path} in Pipedream's JSON): it may decide when steps run, as control flow does"
        )
        self._deciding.append((path, value))
        self._add_steps(path, value)

    def _check_count(self) -> None:
        if len(self.entries) + len(self.unread) + len(self._steps) >= MAX_ENTRIES:
            raise NotebookError(f"has more than {MAX_ENTRIES} steps and unknown parts.")

    def _add_entry(self, path: str, value: Any, why: str) -> None:
        self._check_count()
        above = next(reversed(self._steps), None)
        self.entries.append(UnsupportedEntry(above, value if isinstance(value, dict) else {"value": value}, path, why))

    def _add_steps(self, path: str, value: object) -> None:
        """Add the steps in *value*, whose conditions are unknown."""
        for inner, raw in _iter_steps(path, value):
            if self._add_step(inner, raw):
                self._conditions[str(raw["namespace"])] = inner

    def _add_step(self, path: str, raw: Mapping[str, Any]) -> bool:
        """Add the step *raw* and return True; a step that cannot be represented is kept as an entry."""
        self._check_count()
        name = str(raw["namespace"])
        fault = _find_fault(raw)
        if fault is None and name in self._steps:
            fault = f"is the second step of this name ({path} in Pipedream's JSON): steps.{name} would be ambiguous"
        if fault is not None:
            self._add_entry(path, raw, fault)
            self._deciding += [(inner, value) for inner, _, value in _iter_unknown(path, raw, STEP_KEYS)]
            return False
        self._steps[name], self._raw[name] = _read_step(raw, self.source), raw
        return True

    def finish_steps(self) -> list[Step]:
        """Return the steps; those with an unknown condition are disabled, and have the path of the part that may decide."""
        texts = [(path, key, text) for path, value in self._deciding for key, text in _iter_texts(value)]
        named = {text: path for path, _, text in reversed(texts)}
        names = {text: path for path, key, text in reversed(texts) if key in _NAMING_KEYS}
        return [self._finish_step(step, named, names) for step in self._steps.values()]

    def _finish_step(self, step: Step, named: Mapping[str, str], names: Mapping[str, str]) -> Step:
        raw = self._raw[step.name]
        unread = {
            key: value
            for key, value in raw.items()
            if key not in STEP_KEYS and not isinstance(value, dict | list) and value not in (None, "")
        }
        referring = (value for key, value in unread.items() if isinstance(value, str) and key not in self.ignored)
        found = (
            self._conditions.get(step.name),
            *(named.get(str(raw.get(key) or "")) for key in ("id", "namespace")),
            *(names.get(value) for value in referring),
        )
        condition = next((path for path in found if path is not None), None)
        kept = step.extra.get(ROUND_TRIP_KEY)
        kept = {
            **(kept if isinstance(kept, dict) else {}),
            **({UNREAD_KEY: unread} if unread else {}),
            **({"condition": condition} if condition is not None else {}),
        }
        return replace(
            step,
            disabled=step.disabled or condition is not None,
            extra={**step.extra, ROUND_TRIP_KEY: kept} if kept else step.extra,
        )


def _find_fault(raw: Mapping[str, Any]) -> str | None:
    """Return why the step *raw* cannot be represented, as the rest of a sentence; None if it can."""
    try:
        check_step_name(raw["namespace"])
    except StepNameError as error:
        return f"cannot be a step here: {error.message.removesuffix('.')}"
    uses, lang = _get_uses(raw), raw.get("lang")
    if uses is not None and not is_action_reference(uses):
        return f"uses {json.dumps(uses)}, which is not KEY@VERSION"
    if uses is None and isinstance(lang, str) and lang and _get_language(lang) is None:
        return f"is in a language that is not supported: {lang}"
    return None


def _get_uses(raw: Mapping[str, Any]) -> str | None:
    saved = _get_saved(raw)
    key, version = raw.get("component_key") or saved.get("key"), saved.get("version")
    if not isinstance(key, str) or not key:
        return None
    return f"{key}@{version}" if version and "@" not in key[1:] else key


def _get_language(lang: str) -> Language | None:
    return next((found for prefix, found in _LANGUAGES.items() if lang.startswith(prefix)), None)


def _read_step(raw: Mapping[str, Any], source: str) -> Step:
    uses, code, lang, notes = _get_uses(raw), _get_code(raw), raw.get("lang"), raw.get("notes") or raw.get("note")
    values = _read_props(raw, source)
    if uses is None and code is None and is_rule_filter_props(values):
        uses = RULE_FILTER
    language = "node" if uses else (_get_language(lang) if isinstance(lang, str) else None) or "node"
    step = Step(
        name=str(raw["namespace"]),
        language=language,
        source="" if uses or code is None else code,
        uses=uses,
        disabled=raw.get("disabled") not in (None, False),
        notes=notes if isinstance(notes, str) else None,
        extra={"runtime": lang} if isinstance(lang, str) and lang not in ("", RUNTIME_NAMES.get(language)) else {},
    )
    definitions = _get_saved(raw).get("configurableProps")
    props = parse_props(
        {CONFIGURABLE_PROPS_KEY: definitions if isinstance(definitions, list) else [], **values},
        slugs={app.prop: app.app for app in find_declared_apps(step)},
        action=uses,
    )
    kept = {
        key: value
        for key, value in props.bookkeeping.items()
        if key != "configurable"
        or (language == "python" and not uses)  # the code of the other ones has the definitions
    }
    if not uses and code is None:
        kept["missing"] = True
    extra = {**step.extra, ROUND_TRIP_KEY: kept} if kept else step.extra
    return replace(step, apps=props.apps, stores=props.stores, props=props.values, extra=extra)


def _read_props(raw: Mapping[str, Any], source: str) -> dict[str, JSON]:
    """Return the values of the props, with an account for each prop in `authProvisionIdMap`, and secrets in place of redacted values."""
    props: dict[str, JSON] = {}
    for key in _PROP_KEYS:
        props |= _read_object(raw.get(key))
    for prop, account in _read_object(raw.get("authProvisionIdMap")).items():
        props.setdefault(prop, {ACCOUNT_KEY: account})
    return {prop: _restore_secrets(_with_text_ids(value), source) for prop, value in props.items()}


def _with_text_ids(value: JSON) -> JSON:
    """Return the value of a prop; what cannot be the id of an account or of a data store is left out."""
    if not isinstance(value, dict):
        return value
    bad = {key: None for key in (ACCOUNT_KEY, STORE_KEY) if key in value and not _is_id(value[key])}
    return {**value, **bad}


def _is_id(value: JSON) -> bool:
    return isinstance(value, str) and _ID.match(value) is not None


def build_secret(source: str) -> dict[str, JSON]:
    """Return the value of a secret prop of the workflow *source*, whose value a person has to give."""
    # The workflow is part of it, because a project stores one secret for each step, prop and value.
    return {ENCRYPTED_VALUE_KEY: f"{REDACTED} {source}"}


def _restore_secrets(value: JSON, source: str) -> JSON:
    """Return *value* with a secret in place of each redacted text."""
    if value == REDACTED:
        return build_secret(source)
    if isinstance(value, dict):
        return {key: _restore_secrets(item, source) for key, item in value.items()}
    return [_restore_secrets(item, source) for item in value] if isinstance(value, list) else value


def _read_object(value: object) -> dict[str, JSON]:
    """Return *value* if it is an object, or JSON text of one; else an empty object."""
    if isinstance(value, str):
        value = read_json_text(value)
    return value if isinstance(value, dict) else {}


def _read_trigger(raw: Mapping[str, Any], steps: list[Step]) -> Trigger:
    trigger_id, url = raw.get("id"), raw.get("endpoint_url")
    kind = TRIGGER_TYPES.get(trigger_id.partition("_")[0] if isinstance(trigger_id, str) else "")
    trigger = assume_trigger(kind or ("http" if isinstance(url, str) and url else "source"), steps)
    custom = raw.get("custom_response")
    if isinstance(custom, bool):
        trigger = replace(trigger, response="custom" if custom else "default")
    return replace(trigger, config=dict(_read_trigger_settings(raw, trigger_id)))


def _read_trigger_settings(raw: Mapping[str, Any], trigger_id: object) -> Iterator[tuple[str, JSON]]:
    if isinstance(trigger_id, str) and trigger_id:
        yield "id", trigger_id
    if isinstance(url := raw.get("endpoint_url"), str) and url:
        yield ENDPOINT_URL_KEY, url
    props = _read_object(raw.get("configured_props")) | _read_object(raw.get("configured_props_json"))
    timer = next((value for value in props.values() if isinstance(value, dict) and _is_timer(value)), {})
    for name, key in (("cron", "cron"), ("intervalSeconds", "interval_seconds"), ("timezone", "timezone")):
        if name in timer:
            yield key, timer[name]
    component = raw.get("component_key")
    if isinstance(component, str) and component:
        yield "uses", component


def _is_timer(value: Mapping[str, JSON]) -> bool:
    return bool({"cron", "intervalSeconds"} & value.keys())

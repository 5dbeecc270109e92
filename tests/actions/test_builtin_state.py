"""The built-in actions on data stores, and the HTTP request, run by the engine."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from pdkernel.model import JSON
from pdkernel.project import Project
from tests.actions.test_builtin import action
from tests.engine.conftest import Run
from tests.http_servers import JsonHandler, serve

STORE = "dataStore: cache\n"


async def returned(run: Run, uses: str, body: str = "") -> JSON:
    """The return value of an action on the store `cache`."""
    execution = await run(action(f"data_stores-{uses}@0.0.1", STORE + body))
    step = execution.step("act")
    assert step.status == "success", step.error or execution.error
    return step.return_value


def records(project: Project) -> dict[str, JSON]:
    """The records of the store `cache`."""
    return {record.key: record.value for record in project.data_stores.read_page("cache").records}


async def test_add_update_record(run: Run, project: Project) -> None:
    """A value is stored under its key; JSON text is stored as the value that it encodes."""
    await returned(run, "add-update-record", "key: n\nvalue: '[1, 2]'\n")
    await returned(run, "add-update-record", "key: t\nvalue: plain\n")

    assert records(project) == {"n": [1, 2], "t": "plain"}


async def test_add_update_multiple_records(run: Run, project: Project) -> None:
    """Each key of an object becomes a record."""
    await returned(run, "add-update-multiple-records", "data:\n  a: 1\n  b: x\n")

    assert records(project) == {"a": 1, "b": "x"}


async def test_get_record(run: Run, project: Project) -> None:
    """The value of a record is returned, or null if the record does not exist."""
    project.data_stores.set("cache", "a", {"x": 1})

    assert await returned(run, "get-record", "key: a\n") == {"x": 1}
    assert await returned(run, "get-record", "key: b\n") is None


@pytest.mark.parametrize(("add", "stored"), [("'Yes'", {"models": []}), ("'No'", {})])
async def test_get_record_or_create(run: Run, project: Project, add: str, stored: dict[str, JSON]) -> None:
    """A missing record is created and returned, with the props of synced workflows."""
    value = await returned(run, "get-record-or-create", f"key: models\naddRecordIfNotFound: {add}\nvalue: '[]'\n")

    assert records(project) == stored
    assert value == stored.get("models")


async def test_get_existing_record(run: Run, project: Project) -> None:
    """An existing record is returned unchanged."""
    project.data_stores.set("cache", "models", ["m1"])

    value = await returned(run, "get-record-or-create", "key: models\naddRecordIfNotFound: 'Yes'\nvalue: '[]'\n")

    assert value == ["m1"]


async def test_has_key_or_create(run: Run, project: Project) -> None:
    """The action returns whether the key exists, and creates the record if its props require that."""
    first = await returned(run, "has-key-or-create", "key: a\naddRecordIfNotFound: 'Yes'\nvalue: 1\n")
    second = await returned(run, "has-key-or-create", "key: a\n")

    assert (first, second) == (False, True)


async def test_delete_single_record(run: Run, project: Project) -> None:
    """A record is deleted and its last value returned."""
    project.data_stores.set("cache", "a", 1)

    assert await returned(run, "delete-single-record", "key: a\n") == 1
    assert records(project) == {}


async def test_list_and_clear(run: Run, project: Project) -> None:
    """Keys and records are listed, and all are deleted."""
    project.data_stores.set("cache", "a", 1)
    project.data_stores.set("cache", "b", 2)

    assert sorted(await returned(run, "list-keys")) == ["a", "b"]  # type: ignore[arg-type]
    assert await returned(run, "list-records") == {"a": 1, "b": 2}
    await returned(run, "delete-all-records")
    assert records(project) == {}


async def test_append_to_record(run: Run, project: Project) -> None:
    """A value is appended to a list; a missing list is created."""
    await returned(run, "append-to-record", "key: a\nvalue: one\n")
    await returned(run, "append-to-record", "key: a\nvalue: two\n")

    assert records(project) == {"a": ["one", "two"]}


async def test_update_ttl(run: Run, project: Project) -> None:
    """The time to live of a record is set; a missing record is an error."""
    project.data_stores.set("cache", "a", 1)
    await returned(run, "update-ttl", "key: a\nttl: 60\n")

    execution = await run(action("data_stores-update-ttl@0.0.1", STORE + "key: b\nttl: 60\n"))

    assert project.data_stores.read_page("cache").records[0].expires is not None
    assert execution.status == "error"


async def test_default_store(run: Run, project: Project) -> None:
    """An action without a store uses the project's default store."""
    execution = await run(action("data_stores-add-update-record@0.0.9", "key: a\nvalue: 1\n"))

    assert execution.status == "success", execution.error
    assert project.data_stores.names() == ["default"]


class _Echo(JsonHandler):
    def answer(self, body: bytes) -> tuple[int, Any]:
        """Respond with the received request."""
        headers = {"auth": self.headers.get("authorization"), "x": self.headers.get("x-a")}
        return 200, {"path": self.path, "body": body.decode(), **headers}


@pytest.fixture
def echo() -> Iterator[str]:
    """The URL of a server on the loopback interface that responds with the received request."""
    with serve(ThreadingHTTPServer(("127.0.0.1", 0), _Echo)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


async def test_http_custom_request(run: Run, echo: str) -> None:
    """The request of a synced workflow is sent: disabled rows left out, the raw body as it is, bearer auth."""
    body = f"""
httpRequest:
  auth: {{type: bearer, token: tok}}
  body: {{contentType: text/plain, mode: raw, type: raw, raw: "{{{{steps.trigger.event.body.name}}}} 1"}}
  headers: [{{name: x-a, value: b}}, {{name: x-a, value: c, disabled: true}}]
  params: [{{name: q, value: "1"}}, {{name: '', value: '', disabled: true}}]
  method: POST
  url: {echo}/metrics
"""
    execution = await run(action("http-custom-request@1.1.1", body))

    value: Any = execution.step("act").return_value
    assert execution.status == "success", execution.step("act").error
    assert value == {"path": "/metrics?q=1", "body": "Ada 1", "auth": "Bearer tok", "x": "b"}

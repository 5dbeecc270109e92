"""The download of data stores and files that a step hands out."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts.sdk import Sdk, WorkflowApi
from pdkernel.annex.migration.data_dump import (
    DumpDownload,
    DumpPlan,
    RescuedEvent,
    fetch_events,
    find_source_ids,
    read_plan,
    save_events,
    write_plan,
)
from pdkernel.errors import ProjectError, RequestError
from pdkernel.event import Event
from pdkernel.model import Trigger, Workflow
from pdkernel.operations.events import EventLibrary
from tests.accounts.upstream import Upstream
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve

PLAN = DumpPlan("the-token", ("orders",), files=True)


@contextmanager
def endpoint(respond: Callable[[Any], Answer]) -> Iterator[tuple[str, list[Any]]]:
    """An endpoint whose responses *respond* gives; its URL, and the bodies of its requests."""
    bodies: list[Any] = []

    def answer(request: SentRequest) -> Answer:
        bodies.append(request.json() if request.method == "POST" else request.path)
        return respond(bodies[-1])

    with serve(AnsweringServer(answer)) as server:
        yield server.url, bodies


def page(*keys: str, total: int = 3, after: str | None = None) -> Answer:
    """A page of records."""
    return 200, {"total": total, "records": [[key, {"k": key}] for key in keys], "next": after}, {}


def download(url: str, folder: Path, plan: DumpPlan = PLAN) -> DumpDownload:
    """A download without output and without waits."""
    return DumpDownload(url, plan, folder, lambda _: None, retry_s=0)


def keys_in(path: Path) -> list[str]:
    """The keys of the records in a downloaded file."""
    return [record["key"] for record in map(json.loads, path.read_text().splitlines()) if "key" in record]


def test_the_step_has_a_prop_for_each_store(tmp_path: Path) -> None:
    """Names that are not identifiers, and names that give the same identifier, have props of their own."""
    plan = write_plan(tmp_path / "rescued", ["a b", "a-b", "a b", "ü"], files=False)

    step = (tmp_path / "rescued" / "step.mjs").read_text()
    assert plan.props() == {"a b": "store_a_b", "a-b": "store_a_b_", "ü": "store_unnamed"}
    assert "store_a_b_: { type: 'data_store', label: \"a-b\" }," in step
    assert plan.token in step
    assert "{{" not in step
    assert (tmp_path / "rescued" / "step.mjs").stat().st_mode & 0o077 == 0
    assert read_plan(tmp_path / "rescued") == plan


def test_a_second_plan_keeps_the_token(tmp_path: Path) -> None:
    """A step that was pasted before goes on working for the stores that it has."""
    first = write_plan(tmp_path, ["a"], files=False)

    assert write_plan(tmp_path, ["a", "b"], files=True).token == first.token


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file in the place of the folder is named, with the option."""
    (tmp_path / "rescued").write_text("")

    with pytest.raises(RequestError, match=r"Cannot write to .*rescued: File exists") as refused:
        write_plan(tmp_path / "rescued", ["orders"], files=False)

    assert refused.value.fix == "Name a writable folder: --to FOLDER"


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    """The error names the command that writes the plan."""
    with pytest.raises(RequestError, match="pdkernel migrate data NAME"):
        read_plan(tmp_path)


def test_a_download_goes_on_after_the_last_record(tmp_path: Path) -> None:
    """After an interruption, a line that is not whole is removed, and the next page begins after the last whole record."""

    def fails_at_b(body: Any) -> Answer:
        return page("a", "b", after="b") if body["after"] is None else (400, {}, {})

    with endpoint(fails_at_b) as (url, _), pytest.raises(RequestError):
        download(url, tmp_path).download_store("orders")
    part = tmp_path / "stores" / "orders.jsonl.pdkernel-part"
    part.write_bytes(part.read_bytes() + b'{"key":"c","val')

    with endpoint(lambda _: page("c")) as (url, bodies):
        result = download(url, tmp_path).download_store("orders")
        again = download(url, tmp_path).download_store("orders")

    assert bodies == [{"store": "orders", "after": "b"}]
    assert (result.count, result.total, result.was_complete) == (3, 3, False)
    assert (again.count, again.total, again.was_complete) == (3, 3, True)
    assert keys_in(result.path) == ["a", "b", "c"]
    assert result.path.read_text().splitlines()[-1] == '{"total": 3}'
    assert not part.exists()


def test_each_request_has_the_token_of_the_plan(tmp_path: Path) -> None:
    """The step returns data to the holder of its token only."""
    with serve(AnsweringServer(lambda _: page("a", total=1))) as server:
        download(server.url, tmp_path).download_store("orders")

    assert [request.headers["x-pdkernel-token"] for request in server.requests] == ["the-token"]


def test_records_that_changed_are_counted(tmp_path: Path) -> None:
    """The number of the last page is the one that is compared."""
    with endpoint(lambda _: page("a", "b", total=3)) as (url, _):
        result = download(url, tmp_path).download_store("orders")
        again = download(url, tmp_path).download_store("orders")

    assert (result.count, result.total) == (2, 3)
    assert (again.count, again.total, again.was_complete) == (2, 3, True)


def test_a_file_without_a_number_is_complete(tmp_path: Path) -> None:
    """A downloaded file is counted without its blank lines; without the last line its own number is the total."""
    file = tmp_path / "stores" / "orders.jsonl"
    file.parent.mkdir()
    file.write_text('{"key": "a", "value": 1}\n\n{"key": "b", "value": 2}\n')

    result = download("http://127.0.0.1:9", tmp_path).download_store("orders")

    assert (result.count, result.total, result.was_complete) == (2, 2, True)


def test_a_download_goes_on_before_the_number(tmp_path: Path) -> None:
    """If the program ended after the last line was written, the next download does not take the number for a record."""
    part = tmp_path / "stores" / "orders.jsonl.pdkernel-part"
    part.parent.mkdir()
    part.write_text('{"key":"a","value":1}\n{"total": 1}\n')

    with endpoint(lambda _: page("b", total=2)) as (url, bodies):
        result = download(url, tmp_path).download_store("orders")

    assert [body["after"] for body in bodies] == ["a"]
    assert keys_in(result.path) == ["a", "b"]
    assert result.path.read_text().splitlines()[-1] == '{"total": 2}'


def test_the_name_of_a_store_is_a_file_name(tmp_path: Path) -> None:
    """A name with a separator stays in the folder."""
    with endpoint(lambda _: page("a", total=1)) as (url, _):
        result = download(url, tmp_path).download_store("../my orders")

    assert result.path == tmp_path / "stores" / "..%2Fmy orders.jsonl"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_error_is_tried_again(tmp_path: Path, status: int) -> None:
    """A rate limit and an error of the server are not the end of the download."""
    responses: list[Answer] = [(status, {}, {}), page("a", total=1)]

    with endpoint(lambda _: responses.pop(0)) as (url, bodies):
        assert download(url, tmp_path).download_store("orders").count == 1

    assert len(bodies) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((403, {"error": "wrong token"}, {}), "another token"),
        ((200, {"total": 1}, {}), "not a page"),
        ((200, {"total": 1, "records": [["a"]], "next": None}, {}), "without a key"),
        ((200, {"total": 1, "records": [], "next": 7}, {}), "no next key"),
        ((200, {"records": [], "next": None}, {}), "not a page"),
        ((200, b"<html>", {}), "a text that is not JSON"),
        pytest.param((200, b"[" * 100_000, {}), "a text that is not JSON", id="deep"),
        ((404, {}, {}), "status 404"),
    ],
)
def test_another_response_is_refused(tmp_path: Path, answer: Answer, message: str) -> None:
    """A response that is not a page of the step is refused with its reason, and no complete file is left."""
    with endpoint(lambda _: answer) as (url, _), pytest.raises(RequestError, match=message):
        download(url, tmp_path).download_store("orders")

    assert not (tmp_path / "stores" / "orders.jsonl").exists()


def test_a_connection_that_breaks_is_tried_again(tmp_path: Path) -> None:
    """The third try may succeed."""
    answers: list[Answer | None] = [None, None, page("a", total=1)]

    def respond(_: Any) -> Answer:
        answer = answers.pop(0)
        if answer is None:
            raise ConnectionResetError
        return answer

    with endpoint(respond) as (url, _):
        assert download(url, tmp_path).download_store("orders").count == 1
    assert answers == []


def files_of(folder: Path, *parts: Answer) -> tuple[bytes, list[Any]]:
    """The downloaded file `a.txt`, whose parts *parts* are, and the requests for it."""
    left = list(parts)

    def respond(body: Any) -> Answer:
        if not isinstance(body, dict) or "file" in body:
            return left.pop(0)
        return 200, {"total": 1, "files": [{"path": "a.txt", "size": 10}], "next": None}, {}

    with endpoint(respond) as (own, bodies):
        download(own, folder).download_files()
    return (folder / "files/a.txt").read_bytes(), [body for body in bodies if isinstance(body, dict) and "file" in body]


def part_of(data: bytes, size: int) -> Answer:
    """A part of a file."""
    return 200, {"content": base64.b64encode(data).decode(), "size": size}, {}


def test_a_file_of_another_size_is_downloaded_again(tmp_path: Path) -> None:
    """A file that has changed since replaces the earlier one."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a.txt").write_bytes(b"old")

    content, asked = files_of(tmp_path, part_of(b"01234567", 10), part_of(b"89", 10))

    assert content == b"0123456789"
    assert [each["offset"] for each in asked] == [0, 8]


def test_an_empty_part_is_the_last(tmp_path: Path) -> None:
    """A file that has become shorter ends where the step has no more."""
    assert files_of(tmp_path, part_of(b"0123", 10), part_of(b"", 10))[0] == b"0123"


def test_a_file_whose_name_is_that_of_another_with_an_ending_stays(tmp_path: Path) -> None:
    """A finished file is not taken for the part of another that has its name without `.part`."""
    contents = {"x.part": b"finished", "x": b"another"}

    def respond(body: Any) -> Answer:
        if "file" in body:
            return part_of(contents[body["file"]], body["size"])
        files = [{"path": name, "size": len(content)} for name, content in contents.items()]
        return 200, {"total": 2, "files": files, "next": None}, {}

    with endpoint(respond) as (url, _):
        download(url, tmp_path).download_files()

    assert {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()} == contents


def test_a_part_that_is_not_base64_is_refused(tmp_path: Path) -> None:
    """Letters that base64 lacks are not left out."""
    with pytest.raises(RequestError, match="is not base64"):
        files_of(tmp_path, (200, {"content": "MD*Ey", "size": 10}, {}))
    assert not (tmp_path / "files/a.txt").exists()


@pytest.mark.parametrize("status", [200, 404])
def test_a_link_replaces_what_was_downloaded(tmp_path: Path, status: int) -> None:
    """A file by its link begins anew, after redirects; a link that does not work leaves no file."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files/big.bin.pdkernel-part").write_bytes(b"begun")
    urls: list[str] = []

    def respond(body: Any) -> Answer:
        if body == "/link":
            return 302, b"", {"location": "/big.bin"}
        if body == "/big.bin":
            return status, b"x" * 10, {}
        if "file" in body:
            return 200, {"url": f"{urls[0]}/link"}, {}
        return 200, {"total": 1, "files": [{"path": "big.bin", "size": 10}], "next": None}, {}

    with endpoint(respond) as (url, _):
        urls.append(url)
        if status == 200:
            download(url, tmp_path).download_files()
        else:
            with pytest.raises(ProjectError, match="could not be downloaded"):
                download(url, tmp_path).download_files()

    whole = tmp_path / "files/big.bin"
    assert (whole.read_bytes() if whole.exists() else None) == (b"x" * 10 if status == 200 else None)


def test_an_endpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    """After three tries the error names the URL, and reports that a repeated command goes on."""
    with pytest.raises(ProjectError, match="goes on where it stopped"):
        download("http://127.0.0.1:9", tmp_path).download_store("orders")


def test_a_url_that_is_invalid_is_refused(tmp_path: Path) -> None:
    """A text that is not a URL is refused without a second try."""
    with pytest.raises(RequestError, match="'http://a:b' is not the URL of an endpoint"):
        download("http://a:b", tmp_path).download_store("orders")


def test_files_of_all_pages_are_downloaded(tmp_path: Path) -> None:
    """The next page is requested with the key of the page before; a page without a next one ends the list."""

    def respond(body: Any) -> Answer:
        if "file" in body:
            return 200, {"content": base64.b64encode(b"x").decode(), "size": 1}, {}
        page = {None: "a", "a": "b", "b": None}[body["after"]]
        return 200, {"total": 3, "files": [{"path": f"after-{body['after']}", "size": 1}], "next": page}, {}

    with endpoint(respond) as (url, _):
        result = download(url, tmp_path).download_files()

    assert (result.count, result.total) == (3, 3)
    assert sorted(path.name for path in result.path.iterdir()) == ["after-None", "after-a", "after-b"]


def test_files_are_downloaded_in_parts_or_by_their_link(tmp_path: Path) -> None:
    """A small file comes in parts, a large one by its link; a file that is here is not requested again."""
    content = {"a/b.txt": b"0123456789", "big.bin": b"x" * 5000}
    links: list[str] = []

    def respond(body: Any) -> Answer:
        if body == "/big.bin":
            return 200, content["big.bin"], {}
        if "file" not in body:
            files = [{"path": name, "size": len(data)} for name, data in content.items()]
            return 200, {"total": 2, "files": files, "next": None}, {}
        if body["file"] == "big.bin":
            return 200, {"url": links[0]}, {}
        part = content["a/b.txt"][body["offset"] : body["offset"] + 4]
        return 200, {"content": base64.b64encode(part).decode(), "size": 10}, {}

    with endpoint(respond) as (url, bodies):
        links.append(f"{url}/big.bin")
        result = download(url, tmp_path).download_files()
        sent = len(bodies)
        again = download(url, tmp_path).download_files()

    assert (result.count, result.total) == (2, 2)
    assert {name: (tmp_path / "files" / name).read_bytes() for name in content} == content
    assert [body["offset"] for body in bodies[:sent] if isinstance(body, dict) and body.get("file") == "a/b.txt"] == [
        0,
        4,
        8,
    ]
    assert (again.count, again.was_complete, len(bodies)) == (2, True, sent + 1)


@pytest.mark.parametrize("path", ["{tmp_path}/elsewhere", "../outside", "a/../../b", "", 7])
def test_a_file_outside_of_the_folder_is_refused(tmp_path: Path, path: Any) -> None:
    """A path that leaves the folder writes nothing."""
    path = path.format(tmp_path=tmp_path) if isinstance(path, str) else path
    answer: Answer = (200, {"total": 1, "files": [{"path": path, "size": 1}], "next": None}, {})

    with endpoint(lambda _: answer) as (url, _), pytest.raises(RequestError, match="outside of the file store"):
        download(url, tmp_path / "rescued").download_files()

    assert [*tmp_path.rglob("*")] == []


@pytest.mark.parametrize("after", ["a.txt", "", 7])
def test_a_page_of_files_that_names_no_next_file_is_an_error(tmp_path: Path, after: object) -> None:
    """A page that names itself or something other than a file as the next page does not end the download as if complete."""

    def respond(body: Any) -> Answer:
        if "file" in body:
            return part_of(b"a", 1)
        return 200, {"total": 2, "files": [{"path": "a.txt", "size": 1}], "next": after}, {}

    with endpoint(respond) as (url, _), pytest.raises(RequestError, match="has no next file"):
        download(url, tmp_path).download_files()


REQUEST: dict[str, Any] = {
    "method": "POST",
    "path": "/orders",
    "headers": {
        "Authorization": "Bearer planted-0123456789",
        "cookie": "session=planted-0123456789",
        "x-hub-signature-256": "sha256=planted-0123456789",
        "content-type": "application/json",
    },
    "body": {"id": 1},
}


@pytest.fixture
def api(upstream: Upstream) -> WorkflowApi:
    """The API with a workflow that has two failed runs, a source with one event, and two emitted events."""
    error = {"code": "InternalFailure", "ts": "2026-11-26T06:06:56.077Z", "stack": "..."}
    upstream.workflows["p_1"] = {"steps": [], "triggers": []}
    upstream.events = {
        "workflows/p_1/$errors": [
            {"id": "1606370816223-0", "event": {"original_event": REQUEST, "original_context": {}, "error": error}},
            {"id": "1606370816100-0", "event": {"original_event": "a text", "error": error}},
        ],
        "sources/dc_1": [{"id": "1606370816000-0", "event": {"original_event": REQUEST, "text": "hi"}}],
        "workflows/p_1": [
            {"id": "1606370815000-0", "event": {"raw_event": {"name": "Luke"}}},
            {"id": "1606370814000-0", "event": {"name": "Leia"}},
        ],
    }
    return WorkflowApi(Sdk(upstream.login))


def saved_in(folder: Path) -> dict[str, Any]:
    """The saved events of a folder by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "events").glob("*.json"))}


def test_events_of_every_list_are_saved(api: WorkflowApi, tmp_path: Path) -> None:
    """Events of failed runs, of sources and of emits are saved under their ids; an event that is not an object is skipped."""
    saved = save_events(list(fetch_events(api, "p_1", ["dc_1"])), EventLibrary(tmp_path))

    found = saved_in(tmp_path)
    assert list(found) == [
        "emitted-1606370814000-0",
        "emitted-1606370815000-0",
        "failed-1606370816223-0",
        "source-1606370816000-0",
    ]
    assert found["emitted-1606370815000-0"] == {"name": "Luke"}
    assert found["failed-1606370816223-0"]["body"] == {"id": 1}
    assert [(each.name, each.error) for each in saved.skipped] == [("failed-1606370816100-0", "InternalFailure")]


def test_headers_are_masked(api: WorkflowApi, tmp_path: Path) -> None:
    """Credentials, cookies and signatures are masked, also in a request inside an event; other headers stay."""
    save_events(list(fetch_events(api, "p_1", ["dc_1"])), EventLibrary(tmp_path))

    found = saved_in(tmp_path)
    assert "planted" not in json.dumps(found)
    for event in (found["failed-1606370816223-0"], found["source-1606370816000-0"]["original_event"]):
        assert event["headers"] == {
            "Authorization": "***",
            "cookie": "***",
            "x-hub-signature-256": "***",
            "content-type": "application/json",
        }


def test_a_second_call_adds_nothing(api: WorkflowApi, tmp_path: Path) -> None:
    """Saved events stay as they are, with changes that a person made."""
    library = EventLibrary(tmp_path)
    save_events(list(fetch_events(api, "p_1", ["dc_1"])), library)
    library.save("failed-1606370816223-0", Event({"body": "edited"}))

    again = save_events(list(fetch_events(api, "p_1", ["dc_1"])), library)

    assert (again.added, len(again.known)) == ((), 4)
    assert saved_in(tmp_path)["failed-1606370816223-0"] == {"body": "edited"}


def test_an_id_cannot_leave_the_folder(upstream: Upstream, tmp_path: Path) -> None:
    """An id of the API with separators is a name inside the folder."""
    upstream.events["workflows/p_1/$errors"] = [{"id": "../../x", "event": {"original_event": {}}}]

    save_events(list(fetch_events(WorkflowApi(Sdk(upstream.login)), "p_1", [])), EventLibrary(tmp_path))

    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "events"]


def test_only_sources_have_a_list() -> None:
    """HTTP endpoints and schedules have no list of events."""
    ids = ("hi_1", "dc_1", "ti_1", "d_1", "dc_2")
    workflow = Workflow("Orders", triggers=tuple(Trigger(config={"id": each}) for each in ids))

    assert find_source_ids(workflow) == ("dc_1", "dc_2")
    assert find_source_ids(None) == ()


def fetched(upstream: Upstream, path: str, *items: dict[str, Any]) -> list[RescuedEvent]:
    """The events of one list."""
    upstream.workflows["p_1"] = {"steps": [], "triggers": []}
    upstream.events = {path: list(items)}
    return list(fetch_events(WorkflowApi(Sdk(upstream.login)), "p_1", []))


def test_an_event_that_is_listed_twice_is_saved_once(upstream: Upstream, tmp_path: Path) -> None:
    """The second event of a name is known; an event without an id has a name."""
    item = {"event": {"original_event": {"body": 1}}}

    saved = save_events(fetched(upstream, "workflows/p_1/$errors", item, item), EventLibrary(tmp_path))

    assert [[each.name for each in part] for part in (saved.added, saved.known)] == [["failed-unknown"]] * 2


def test_an_emitted_event_is_unpacked_only_if_it_is_alone(upstream: Upstream) -> None:
    """An object with other keys beside `raw_event` is the event itself."""
    event = {"raw_event": {"name": "Luke"}, "other": 1}

    (found,) = fetched(upstream, "workflows/p_1", {"id": "1", "event": event})

    assert found.event is not None
    assert found.event.data == event


def test_headers_of_requests_deep_inside_are_masked(upstream: Upstream) -> None:
    """A request in a list of an object in an event has masked headers too."""
    inside = {"batch": {"requests": [REQUEST]}}

    (found,) = fetched(upstream, "workflows/p_1", {"id": "1", "event": inside})

    assert found.event is not None
    assert "planted" not in json.dumps(dict(found.event.data))


def test_the_error_of_a_failed_run(upstream: Upstream) -> None:
    """Name, code and message of the error, each word once."""
    error = {"name": "TypeError", "code": "TypeError", "message": "x is undefined"}

    (found,) = fetched(upstream, "workflows/p_1/$errors", {"id": "1", "event": {"original_event": {}, "error": error}})

    assert found.error == "TypeError: x is undefined"

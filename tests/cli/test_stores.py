"""`pdkernel store`: looking, changing, files."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Shell


def test_a_value_is_set_and_got(pdkernel: Shell) -> None:
    """A value is JSON on the way in and on the way out."""
    assert pdkernel("store", "set", "orders", "last", '{"id": 9007199254740993}').status == 0

    assert pdkernel("store", "get", "orders", "last").json == {"id": 9007199254740993}
    assert pdkernel("store", "get", "orders", "last", "--json").json == {
        "key": "last",
        "value": {"id": 9007199254740993},
    }


def test_a_value_that_is_not_json_says_how_to_write_it(pdkernel: Shell) -> None:
    """A bare word is refused with the option that takes it, and that option does."""
    refused = pdkernel("store", "set", "orders", "last", "hello")
    taken = pdkernel("store", "set", "orders", "last", "-", "--text", stdin="hello")

    assert refused.status == 2
    assert "--text" in refused.stderr
    assert taken.status == 0
    assert pdkernel("store", "get", "orders", "last").json == "hello"


def test_stores_and_records_are_listed(pdkernel: Shell) -> None:
    """`list` shows the stores, `list NAME` the records with their ends."""
    pdkernel("store", "set", "orders", "a", "1")
    pdkernel("store", "set", "orders", "b", "[1, 2]", "--ttl", "3600")

    listed = pdkernel("store", "list", "--json").json

    assert [(store["name"], store["keys"]) for store in listed] == [("orders", 2)]
    assert "orders  2 records" in pdkernel("store", "list").stdout
    records = pdkernel("store", "list", "orders", "--json").json
    assert [sorted(record) for record in records] == [["key", "value"], ["expires_at", "key", "value"]]
    assert "b  [1, 2]  (until " in pdkernel("store", "list", "orders").stdout


def test_what_is_not_there_is_named(pdkernel: Shell) -> None:
    """An unknown store or key is refused with what there is; an unknown one makes nothing."""
    pdkernel("store", "set", "orders", "a", "1")

    for words in (["get", "order", "a"], ["list", "order"], ["remove", "order"], ["export", "order"]):
        refused = pdkernel("store", *words)
        assert refused.status == 2
        assert "orders" in refused.stderr
    assert "pdkernel store list orders" in pdkernel("store", "get", "orders", "b").stderr
    assert pdkernel("store", "remove", "orders", "b").status == 2


def test_records_and_stores_are_removed(pdkernel: Shell) -> None:
    """`remove NAME KEY` takes one record, `remove NAME` the store."""
    for key in "ab":
        pdkernel("store", "set", "orders", key, "1")

    pdkernel("store", "remove", "orders", "a")
    assert [record["key"] for record in pdkernel("store", "list", "orders", "--json").json] == ["b"]
    assert pdkernel("store", "remove", "orders", "--json").json == {"name": "orders", "key": None, "removed": True}
    assert pdkernel("store", "list", "--json").json == []


def test_an_export_imported_exports_the_same_bytes(pdkernel: Shell) -> None:
    """Values, ends and order come back from a file byte for byte."""
    pdkernel("store", "set", "one", "zeta", '{"b": 1, "a": [1.0, -0.0, 12345678901234567890, "\\ud800", "ü"]}')
    pdkernel("store", "set", "one", "alpha", "null", "--ttl", "3600")
    pdkernel("store", "export", "one", "--to", "one.jsonl")

    told = pdkernel("store", "import", "two", "one.jsonl", "--json")

    assert told.json == {"name": "two", "records": 2, "expired": 0}
    assert pdkernel("store", "export", "two").stdout == (pdkernel.folder / "one.jsonl").read_text()


def test_what_has_expired_is_not_imported(pdkernel: Shell) -> None:
    """A record whose end is past is left out, and that is said."""
    pdkernel.write(
        "old.jsonl", '{"key":"a","value":1,"expires_at":"2020-01-01T00:00:00.000Z"}\n{"key":"b","value":2}\n'
    )

    told = pdkernel("store", "import", "s", "old.jsonl")

    assert "skipped 1 expired" in told.stdout
    assert [record["key"] for record in pdkernel("store", "list", "s", "--json").json] == ["b"]


def test_clear_replaces_what_was_there(pdkernel: Shell) -> None:
    """An import adds to what is there, with --clear it takes its place."""
    pdkernel("store", "set", "s", "old", "1")
    pdkernel.write("new.jsonl", '{"key":"new","value":2}\n')

    pdkernel("store", "import", "s", "new.jsonl")
    assert len(pdkernel("store", "list", "s", "--json").json) == 2
    pdkernel("store", "import", "s", "new.jsonl", "--clear")
    assert [record["key"] for record in pdkernel("store", "list", "s", "--json").json] == ["new"]


@pytest.mark.parametrize(
    "line",
    [
        "no",
        "[1]",
        '{"key": "b"}',
        '{"key": 7, "value": 1}',
        '{"key": "b", "value": 1, "expires_at": "soon"}',
        '{"key": "b", "value": ' + "9" * 100_000 + "}",
        '{"key": "b", "value": ' + "[" * 100_000 + "}",
        '{"key": "", "value": 1}',
        '{"key": "a\\u0000b", "value": 1}',
        '{"key": "\\ud800", "value": 1}',
        '{"key": "' + "k" * 2000 + '", "value": 1}',
    ],
    ids=lambda line: line[:50],
)
def test_a_wrong_line_imports_nothing(pdkernel: Shell, line: str) -> None:
    """A file with one wrong line is refused as a whole, naming file and line."""
    pdkernel.write("wrong.jsonl", f'{{"key":"a","value":1}}\n{line}\n')

    refused = pdkernel("store", "import", "s", "wrong.jsonl")

    assert refused.status == 2
    assert "wrong.jsonl, line 2" in refused.stderr
    assert "line 1" not in refused.stderr
    assert len(refused.stderr) < 1000
    assert pdkernel("store", "list", "--json").json == []


def test_a_step_and_the_command_see_one_store(pdkernel: Shell) -> None:
    """What a run stored is there afterwards, by the name that the directive gives."""
    name = pdkernel.notebook(
        '%%pdstep count --data-store s=counters\ndef handler(pd):\n    s = pd.inputs["s"]\n'
        '    s["n"] = s.get("n", 0) + 1\n    return s["n"]\n'
    )

    for expected in (1, 2):
        done = pdkernel("run", name, "--body", "{}", "--json")
        assert done.json["steps"][0]["exports"] == {"$return_value": expected}
    assert pdkernel("store", "get", "counters", "n").json == 2


def test_an_exported_folder_uses_the_same_stores(pdkernel: Shell) -> None:
    """Which store fills which prop goes through the files of an export, by name, as default and by the platform's id."""
    name = pdkernel.notebook(
        "%%pdstep one --data-store s=orders --data-store d --data-store p=ds_abc\ndef handler(pd):\n"
        '    for prop in "sdp":\n        pd.inputs[prop]["from " + prop] = 1\n'
    )
    assert pdkernel("export", name, "--to", "out").status == 0

    assert pdkernel("run", "out", "--body", "{}").status == 0

    found = {store["name"]: pdkernel("store", "list", store["name"], "--json").json[0]["key"]
             for store in pdkernel("store", "list", "--json").json}  # fmt: skip
    assert found == {"orders": "from s", "default": "from d", "ds_abc": "from p"}

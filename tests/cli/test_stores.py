"""`pdkernel store`: reading, changing, importing and exporting records."""

from __future__ import annotations

from tests.cli.conftest import Shell


def test_a_value_is_set_and_read(pdkernel: Shell) -> None:
    """A value is JSON in both commands."""
    assert pdkernel("store", "set", "orders", "last", '{"id": 9007199254740993}').status == 0

    assert pdkernel("store", "get", "orders", "last").json == {"id": 9007199254740993}
    assert pdkernel("store", "get", "orders", "last", "--json").json == {
        "key": "last",
        "value": {"id": 9007199254740993},
    }


def test_a_value_that_is_not_json_is_refused_with_a_fix(pdkernel: Shell) -> None:
    """A bare word is refused with the option that accepts text, and that option works."""
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


def test_an_unknown_store_or_key_is_refused(pdkernel: Shell) -> None:
    """An unknown store or key is refused with the existing ones, and nothing is created."""
    pdkernel("store", "set", "orders", "a", "1")

    for words in (["get", "order", "a"], ["list", "order"], ["remove", "order"], ["export", "order"]):
        refused = pdkernel("store", *words)
        assert refused.status == 2
        assert "orders" in refused.stderr
    assert pdkernel("store", "list", "order", "--json").json["error"]["code"] == "store_not_found"
    assert "pdkernel store list orders" in pdkernel("store", "get", "orders", "b").stderr
    assert pdkernel("store", "remove", "orders", "b", "--yes").status == 2


def test_records_and_stores_are_removed(pdkernel: Shell) -> None:
    """`remove NAME KEY` removes one record, `remove NAME` the store."""
    for key in "ab":
        pdkernel("store", "set", "orders", key, "1")

    pdkernel("store", "remove", "orders", "a", "--yes")
    asked = pdkernel("store", "remove", "orders")
    assert [record["key"] for record in pdkernel("store", "list", "orders", "--json").json] == ["b"]
    assert (asked.status, "Remove the store orders with 1 record: not confirmed" in asked.stderr) == (2, True)
    assert pdkernel("store", "remove", "orders", "--yes", "--json").json == {
        "name": "orders",
        "key": None,
        "removed": True,
    }
    assert pdkernel("store", "list", "--json").json == []


def test_an_export_imported_exports_the_same_bytes(pdkernel: Shell) -> None:
    """An imported export has the same values, expiry times and order, byte for byte."""
    pdkernel("store", "set", "one", "zeta", '{"b": 1, "a": [1.0, -0.0, 12345678901234567890, "\\ud800", "ü"]}')
    pdkernel("store", "set", "one", "alpha", "null", "--ttl", "3600")
    exported = pdkernel("store", "export", "one", "--to", "one.jsonl", "--json").json
    assert exported == {"name": "one", "file": "one.jsonl", "records": 2}

    imported = pdkernel("store", "import", "two", "one.jsonl", "--json")

    assert imported.json == {"name": "two", "records": 2, "expired": 0}
    assert pdkernel("store", "export", "two").stdout == (pdkernel.folder / "one.jsonl").read_text()


def test_an_export_that_cannot_be_written_is_refused(pdkernel: Shell) -> None:
    """A folder in the place of the file is named, without a traceback."""
    pdkernel("store", "set", "orders", "a", "1")

    ended = pdkernel("store", "export", "orders", "--to", ".")

    assert ended.status == 2
    assert ended.stderr == "Error: Cannot write .: Is a directory.\nName a file in a writable folder.\n"


def test_what_is_not_imported(pdkernel: Shell) -> None:
    """An expired record is skipped, and the output reports it; a file with one invalid line is refused with file and line."""
    pdkernel.write(
        "old.jsonl", '{"key":"a","value":1,"expires_at":"2020-01-01T00:00:00.000Z"}\n{"key":"b","value":2}\n'
    )
    pdkernel.write("wrong.jsonl", '{"key":"c","value":1}\n[1]\n')

    imported = pdkernel("store", "import", "s", "old.jsonl")
    wrong, refused = pdkernel("store", "import", "s", "-", stdin="no"), pdkernel("store", "import", "s", "wrong.jsonl")

    assert "skipped 1 expired" in imported.stdout
    assert "standard input, line 1" in wrong.stderr
    assert (refused.status, "wrong.jsonl, line 2" in refused.stderr) == (2, True)
    assert pdkernel("store", "export", "s", "--json").json == [{"key": "b", "value": 2}]


def test_clear_replaces_the_store(pdkernel: Shell) -> None:
    """An import adds records; with --clear it replaces the store."""
    pdkernel("store", "set", "s", "old", "1")
    pdkernel.write("new.jsonl", '{"key":"new","value":2}\n')

    pdkernel("store", "import", "s", "new.jsonl")
    assert pdkernel("store", "import", "s", "new.jsonl", "--clear").status == 2  # not confirmed
    assert len(pdkernel("store", "list", "s", "--json").json) == 2
    pdkernel("store", "import", "s", "new.jsonl", "--clear", "--yes")
    assert [record["key"] for record in pdkernel("store", "list", "s", "--json").json] == ["new"]


def test_an_exported_folder_uses_the_same_stores(pdkernel: Shell) -> None:
    """An exported folder keeps the store of each prop: by name, as default, and by the platform's id."""
    name = pdkernel.notebook(
        "%%pdstep one --data-store s=orders --data-store d --data-store p=ds_abc\ndef handler(pd):\n"
        '    for prop in "sdp":\n        pd.inputs[prop]["from " + prop] = 1\n'
    )
    assert pdkernel("export", name, "--to", "out").status == 0

    assert pdkernel("run", "out", "--body", "{}", "--egress", "live").status == 0

    found = {store["name"]: pdkernel("store", "list", store["name"], "--json").json[0]["key"]
             for store in pdkernel("store", "list", "--json").json}  # fmt: skip
    assert found == {"orders": "from s", "default": "from d", "ds_abc": "from p"}

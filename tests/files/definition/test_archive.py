"""Archives of exported workflows: their workflows, their manifest, and archives that are damaged or made to harm."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import ArchiveError, NotebookError
from pdkernel.files.definition.archive import MAX_FILE_BYTES, Archive, is_archive
from pdkernel.language.analysis import find_secret_props
from tests.files.definition.archives import manifest, pack, step, workflow

GREET = workflow("Greet", [step("a")], workflow_id="p_Ab12Cd3")
WARNING = "step a: secret prop api_key was omitted from the export and must be re-entered after import"


def read(path: Path) -> None:
    """Read a whole archive, as an import does."""
    with Archive.open(path) as archive:
        archive.check()
        for file in archive.files:
            archive.read_workflow(file)


def add(packed: zipfile.ZipFile, name: str, content: bytes = b"{}", **attributes: Any) -> str:
    """Add an entry with the attributes of its directory record; return its name."""
    info = zipfile.ZipInfo("placeholder.json")
    info.filename = name
    for key, value in attributes.items():
        setattr(info, key, value)
    packed.writestr(info, content)
    return name


def hostile(build: Callable[[zipfile.ZipFile], object]) -> Callable[[Path], None]:
    """A function that writes an archive with the entries of *build*, below a good one."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("greet.json", json.dumps(GREET))
            build(packed)

    return write


def patched(old: bytes, new: bytes) -> Callable[[Path], None]:
    """A function that writes a good archive and replaces bytes of it."""

    def write(path: Path) -> None:
        pack(path, {"greet.json": GREET})
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return write


def cut(path: Path) -> None:
    """An archive whose download was interrupted."""
    pack(path, {"greet.json": GREET, "other.json": GREET})
    path.write_bytes(path.read_bytes()[:-40])


def encrypt(path: Path) -> None:
    """An archive whose entry says that it is encrypted."""
    pack(path, {"greet.json": GREET})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def lie_about_sizes(path: Path) -> None:
    """An entry of 64 MB that the directory announces as 10 bytes."""
    pack(path, {"greet.json": b"[" + b" " * (64 << 20) + b"]"})
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 24 : start + 28] = (10).to_bytes(4, "little")
    path.write_bytes(content)


def many_comments(packed: zipfile.ZipFile) -> None:
    """A directory of more than eight MB."""
    for number in range(140):
        add(packed, f"w{number}.json", comment=b"x" * 65_000)


BOMB = b" " * (MAX_FILE_BYTES + 1)
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "damaged or not whole"),
    "not a ZIP": (lambda path: path.write_bytes(b"PK\x03\x04 and text"), "damaged or not whole"),
    "damaged header": (patched(b"PK\x03\x04", b"PK\x03\x05"), "damaged or not whole"),
    "upwards": (hostile(lambda packed: add(packed, "../x.json")), "leads out of the archive"),
    "upwards inside": (hostile(lambda packed: add(packed, "a/../../x.json")), "leads out of the archive"),
    "upwards, Windows": (hostile(lambda packed: add(packed, "a\\..\\..\\x.json")), "leads out of the archive"),
    "absolute": (hostile(lambda packed: add(packed, "/etc/x.json")), "absolute path"),
    "drive": (hostile(lambda packed: add(packed, "C:/x.json")), "absolute path"),
    "control character": (hostile(lambda packed: add(packed, "a\x1b[2J.json")), "control character"),
    "empty part": (hostile(lambda packed: add(packed, "a//x.json")), "not a path"),
    "long name": (hostile(lambda packed: add(packed, f"{'a' * 201}.json")), "longer than"),
    "link": (hostile(lambda packed: add(packed, "x.json", b"/etc/passwd", external_attr=0o120777 << 16)), "link or a special file"),
    "device": (hostile(lambda packed: add(packed, "x.json", external_attr=0o020666 << 16)), "link or a special file"),
    "same name": (hostile(lambda packed: add(packed, "greet.json")), "same name"),
    "same name, other case": (hostile(lambda packed: add(packed, "GREET.json")), "same name"),
    "same name, other form": (hostile(lambda packed: [add(packed, name) for name in ("\u00e9.json", "e\u0301.json")]), "same name"),
    "encrypted": (encrypt, "encrypted"),
    "nested archive": (hostile(lambda packed: add(packed, "more.zip")), "an archive in an archive"),
    "another file": (hostile(lambda packed: add(packed, "run.sh")), "no JSON file"),
    "compression": (hostile(lambda packed: add(packed, "x.json", compress_type=zipfile.ZIP_BZIP2)), "compressed by method 12"),
    "large file": (hostile(lambda packed: add(packed, "x.json", BOMB, compress_type=zipfile.ZIP_DEFLATED)), "unpacks to more"),
    "large sum": (
        hostile(lambda packed: [add(packed, f"{n}.json", BOMB[:-1], compress_type=zipfile.ZIP_DEFLATED) for n in range(17)]),
        "files unpack to more",
    ),
    "lying size": (lie_about_sizes, "damaged or not whole"),
    "large directory": (hostile(many_comments), "its directory has more than"),
    "many workflows": (hostile(lambda packed: [add(packed, f"{n}.json") for n in range(500)]), "has 501 files"),
    "many entries": (hostile(lambda packed: [add(packed, f"{n}/") for n in range(10_000)]), "10001 entries"),
    "nothing": (lambda path: pack(path, {}), "no JSON file is in it"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", CASES)
def test_an_archive_that_pipedream_does_not_make_is_refused(tmp_path: Path, case: str) -> None:
    """The error names what is wrong and what to do; memory stays far below what the archive unpacks to."""
    write, why = CASES[case]
    path = tmp_path / "x.zip"
    write(path)
    tracemalloc.start()

    with pytest.raises(ArchiveError, match=why) as caught:
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert caught.value.fix
    assert str(path) in caught.value.message
    assert peak < 30 << 20


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    """A file that differs from its checksum is damaged, whichever byte differs."""
    path = pack(tmp_path / "x.zip", {"greet.json": GREET})
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(ArchiveError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    "content", [b"[", b"\xff\xfe", b"NaN", b'{"n": 1e999}', b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}", b"{}"]
)
def test_a_file_that_is_no_workflow_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is not JSON, or not a workflow, is an error of that file."""
    path = pack(tmp_path / "x.zip", {"greet.json": GREET, "Sales/odd.json": content})

    with Archive.open(path) as archive:
        assert archive.read_workflow("greet.json").workflow.name == "Greet"
        with pytest.raises(NotebookError, match=r"x\.zip/Sales/odd\.json"):
            archive.read_workflow("Sales/odd.json")


def test_names_in_other_encodings(tmp_path: Path) -> None:
    """UTF-8 without its flag is read as UTF-8, and other bytes by the code page of ZIP; entries of file managers are skipped."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("gr-sse-1.json", json.dumps(GREET))
        packed.writestr("gr-sse2.json", json.dumps(GREET))
        packed.writestr("__MACOSX/._x", b"x")
        packed.writestr("Sales/", b"")
    content = path.read_bytes().replace(b"gr-sse-1", "gr\u00fcsse1".encode()).replace(b"gr-sse2", b"gr\x81sse2")
    path.write_bytes(content)

    with Archive.open(path) as archive:
        assert archive.files == ("gr\u00fcsse1.json", "gr\u00fcsse2.json")


@pytest.mark.parametrize(
    ("file", "item", "name"),
    [
        ("Sales/greet.json", GREET, "Sales/greet-p_Ab12Cd3"),
        ("greet-p_Ab12Cd3.json", GREET, "greet-p_Ab12Cd3"),
        ("greet-p_Xy12Cd3.json", workflow("Greet", []), "greet-p_Xy12Cd3"),
        ("p_Ab12Cd3.json", GREET, "p_Ab12Cd3"),
        ("greet.json", workflow("Greet", []), "greet"),
    ],
)
def test_the_name_of_a_workflow_ends_with_its_id(tmp_path: Path, file: str, item: Any, name: str) -> None:
    """As in a synced repository: with the id, other workflows find it."""
    with Archive.open(pack(tmp_path / "x.zip", {file: item})) as archive:
        assert str(archive.read_workflow(file).name) == name


def test_each_entry_of_the_manifest_finds_its_file(tmp_path: Path) -> None:
    """By a path, by the id in a file's name, or by the workflow's name; a file that no entry means is unlisted."""
    files = {"Sales/greet.json": GREET, "late-p_Zz12Cd3.json": GREET, "on-call.json": GREET, "more.json": GREET}
    listed = manifest(
        {"id": "p_Zz12Cd3", "name": "Greet", "status": "exported"},
        {"file": "Sales/greet.json", "name": "Greet", "status": "exported"},
        {"workflow": "On call!", "status": "exported"},
        {"name": "Draft", "status": "skipped_never_deployed"},
    )

    with Archive.open(pack(tmp_path / "x.zip", files, listed=listed)) as archive:
        found = archive.manifest

    assert found is not None
    assert [entry.file for entry in found.entries] == ["late-p_Zz12Cd3.json", "Sales/greet.json", "on-call.json", None]
    assert found.unlisted == ("more.json",)


@pytest.mark.parametrize(
    "listed",
    [
        manifest({"id": "p_Ab12Cd3", "name": "Greet", "status": "exported", "warnings": [WARNING]}, {"name": "Other"}),
        manifest(
            {"id": "p_Ab12Cd3", "name": "Greet", "status": "exported"},
            {"name": "Other"},
            warnings=[{"workflow_id": "p_Ab12Cd3", "message": WARNING}],
        ),
        manifest({"id": "p_Ab12Cd3", "name": "Greet", "status": "exported"}, warnings=[WARNING]),
    ],
    ids=["at the workflow", "naming the workflow", "only one workflow"],
)
def test_an_omitted_secret_is_a_secret_prop(tmp_path: Path, listed: Any) -> None:
    """A secret that the manifest names and the file leaves out must be given before a run."""
    files = {"greet-p_Ab12Cd3.json": GREET}

    with Archive.open(pack(tmp_path / "x.zip", files, listed=listed)) as archive:
        found = archive.read_workflow("greet-p_Ab12Cd3.json")

    assert found.warnings == (WARNING,)
    assert [prop.name for prop in find_secret_props(found.workflow)] == ["a.api_key"]


def test_a_warning_changes_no_value_that_is_there(tmp_path: Path) -> None:
    """A prop that the file has keeps its value, and a warning about another step changes nothing."""
    item = workflow("Greet", [step("a", props={"api_key": "{{process.env.KEY}}"})])
    warnings = [WARNING, WARNING.replace("step a", "step b")]
    listed = manifest({"name": "Greet", "status": "exported", "warnings": warnings})

    with Archive.open(pack(tmp_path / "x.zip", {"greet.json": item}, listed=listed)) as archive:
        found = archive.read_workflow("greet.json").workflow

    assert found.step("a").props == {"api_key": "{{process.env.KEY}}"}


def test_what_is_an_archive(tmp_path: Path) -> None:
    """A file that is named like a ZIP, or begins like one."""
    (tmp_path / "a.zip").write_bytes(b"")
    pack(tmp_path / "b", {"greet.json": GREET})
    (tmp_path / "c.ipynb").write_text("{}")

    assert [is_archive(tmp_path / name) for name in ("a.zip", "b", "c.ipynb", ".")] == [True, True, False, False]

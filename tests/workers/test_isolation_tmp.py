"""The private `/tmp` of the steps of one run."""

from __future__ import annotations

import glob
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.errors import InterpreterMissingError
from pdkernel.model import JSON, Language
from pdkernel.workers import GoBuildCache, RunSetup, WorkerPool
from pdkernel.workers.zygote import ZYGOTES
from tests.builders import skip_time
from tests.workers.conftest import Bench
from tests.workers.test_worker import go, node, python, run_until_up

LANGUAGES: tuple[Language, ...] = ("python", "node", "bash", "go")
NAME = "pdkernel-written-by-a-test"

WRITE: dict[Language, str] = {
    "python": python(f"open('/tmp/{NAME}', 'w').write('python')"),
    "node": f"import {{ writeFileSync }} from 'fs'; export default {{ run() {{ writeFileSync('/tmp/{NAME}', 'node') }} }}",
    "bash": f"printf bash > /tmp/{NAME}",
    "go": go(f'os.WriteFile("/tmp/{NAME}", []byte("go"), 0600)', "os"),
}
READ: dict[Language, str] = {
    "python": python(f"return open('/tmp/{NAME}').read() if os.path.exists('/tmp/{NAME}') else 'nothing'"),
    "node": "import * as fs from 'fs'; export default { run() {"
    f" return fs.existsSync('/tmp/{NAME}') ? fs.readFileSync('/tmp/{NAME}', 'utf8') : 'nothing' }} }}",
    "bash": f'echo "\\$return_value=$(cat /tmp/{NAME} || echo nothing)" >> $PIPEDREAM_EXPORTS',
    "go": go(
        f'b, e := os.ReadFile("/tmp/{NAME}"); if e != nil {{ b = []byte("nothing") }}; pd.Export("$return_value", string(b))',
        "os",
    ),
}
SHOW: dict[Language, str] = {
    "python": python("return [os.getcwd(), os.environ['HOME'], __import__('tempfile').gettempdir()]"),
    "node": "import os from 'os'; export default { run() { return [process.cwd(), process.env.HOME, os.tmpdir()] } }",
    "bash": 'echo "\\$return_value:json=[\\"$PWD\\", \\"$HOME\\", \\"$TMPDIR\\"]" >> $PIPEDREAM_EXPORTS',
    "go": go('w, _ := os.Getwd(); pd.Export("$return_value", []string{w, os.Getenv("HOME"), os.TempDir()})', "os"),
}

Open = Callable[..., Awaitable[Bench]]


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder outside of `/tmp`; the folders of pytest are in `/tmp`."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def require_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests need a system that permits namespaces, and steps that see no other files."""
    monkeypatch.delenv(STEP_PATHS_VARIABLE, raising=False)
    if not ZYGOTES.isolation().namespaces:
        pytest.skip("this system permits no mount namespace")


@pytest.fixture
async def open_one(base: Path, go_programs: GoBuildCache) -> AsyncIterator[Open]:
    """A factory of runs of one workflow, whose project is not in `/tmp`."""
    pool = WorkerPool(max_active_runs=4, go_cache=go_programs)
    count = 0

    async def open_run(*, event: JSON = None, of: WorkerPool = pool, folder: Path | None = None) -> Bench:
        nonlocal count
        count += 1
        folder = folder or base / "project"
        folder.mkdir(exist_ok=True)
        trigger: dict[str, JSON] = {"event": event, "context": {"id": "ctx1"}}
        return Bench(await of.open_run(RunSetup(f"run{count}", "demo@1", trigger, {}, folder)))

    yield open_run
    await pool.close()


@pytest.mark.parametrize("reader", LANGUAGES)
@pytest.mark.parametrize("writer", LANGUAGES)
async def test_steps_pass_files_through_tmp(open_one: Open, writer: Language, reader: Language) -> None:
    """A later step of any language reads a file in `/tmp` of an earlier step; the file is not in this machine's `/tmp`."""
    bench = await open_one()

    written = await bench.run(writer, WRITE[writer], name="write")
    outcome = await bench.run(reader, READ[reader], name="read")

    assert (written.error, outcome.error) == (None, None)
    assert outcome.exports["$return_value"] == writer
    assert not Path("/tmp", NAME).exists()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_run_finds_tmp_empty(open_one: Open, language: Language) -> None:
    """The next run of the workflow, in the same processes, does not find files of the last run."""
    first = await open_one()
    await first.run(language, WRITE[language])
    await first.run("bash", "mkdir -p /tmp/a/b; touch /tmp/a/b/.hidden /tmp/.dot; ln -s /nowhere /tmp/link")
    await first.workers.release()

    second = await open_one()
    found = await second.run(language, READ[language])
    listed = await second.run("bash", 'echo "all= $(ls -A /tmp) " >> $PIPEDREAM_EXPORTS')

    assert found.exports["$return_value"] == "nothing"
    assert {NAME, "a", ".dot", "link"}.isdisjoint(str(listed.exports["all"]).split())


async def test_run_may_write_to_tmp_after_one_that_closed_it(open_one: Open) -> None:
    """A run that takes the permissions of `/tmp` away takes them from itself only."""
    first = await open_one()
    await first.run("python", python("os.chmod('/tmp', 0)"))
    await first.workers.release()

    second = await open_one()
    written = await second.run("python", WRITE["python"])
    read = await second.run("bash", READ["bash"])

    assert written.error is None
    assert read.exports["$return_value"] == "python"


async def test_next_run_uses_the_same_processes(open_one: Open) -> None:
    """A private `/tmp` does not prevent the reuse of warm processes."""
    pids = []
    for _ in range(2):
        bench = await open_one()
        for language, source in (("node", node("return process.pid")), ("python", python("return os.getpid()"))):
            pids.append((await bench.run(language, source)).exports["$return_value"])  # type: ignore[arg-type]
        await bench.workers.release()

    assert pids[:2] == pids[2:]


async def test_concurrent_runs_have_separate_tmp_folders(open_one: Open) -> None:
    """Runs of one workflow that execute at the same time do not see each other's files."""
    one, other = await open_one(), await open_one()
    await one.run("node", WRITE["node"])
    await other.run("python", WRITE["python"])

    assert (await one.run("python", READ["python"])).exports["$return_value"] == "node"
    assert (await other.run("node", READ["node"])).exports["$return_value"] == "python"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_working_folder_and_home_are_tmp(open_one: Open, language: Language) -> None:
    """The working folder, HOME and TMPDIR are `/tmp`."""
    outcome = await (await open_one()).run(language, SHOW[language])

    assert outcome.exports["$return_value"] == ["/tmp"] * 3


@pytest.mark.parametrize("language", LANGUAGES)
async def test_project_in_tmp(open_one: Open, names_in_tmp: frozenset[str], language: Language) -> None:
    """Steps of a project in `/tmp` have a private `/tmp`, too. They see the project in it, and cannot change it."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/tmp") as name:
        project = Path(name, "project")
        project.mkdir()
        (project / "precious").write_text("word\n")
        bench = await open_one(folder=project)
        script = (
            f"echo found=$(cat {project}/precious) >> $PIPEDREAM_EXPORTS\n"
            f"rm -rf {project}/* 2> /dev/null; touch {project}/new; echo names=$(LC_ALL=C ls /tmp) >> $PIPEDREAM_EXPORTS"
        )

        outcome = await bench.run(language, SHOW[language])
        seen = await bench.run("bash", script)
        left = [path.name for path in project.iterdir()]

    assert outcome.exports["$return_value"] == ["/tmp"] * 3
    assert seen.exports == {"found": "word", "names": " ".join(sorted({Path(name).name, *names_in_tmp}))}
    assert left == ["precious"]


async def test_module_written_by_a_run_is_not_cached_for_the_next_run(open_one: Open) -> None:
    """Python imports a file with the same path again in each run."""
    source = (
        "import os, sys\ndef handler(pd):\n    if pd.steps['trigger']['event']:\n"
        "        open('/tmp/mine_of_this_run.py', 'w').write('word = %r' % pd.steps['trigger']['event'])\n"
        "    sys.path.insert(0, '/tmp')\n    import mine_of_this_run\n    return mine_of_this_run.word\n"
    )
    words = []
    for event in ("first", "second", ""):
        bench = await open_one(event=event)
        outcome = await bench.run("python", source)
        words.append(outcome.exports.get("$return_value") or (outcome.error and outcome.error.name))
        await bench.workers.release()

    assert words == ["first", "second", "ModuleNotFoundError"]


async def test_module_of_a_project_in_tmp_is_imported_once(open_one: Open) -> None:
    """A file beside a workflow in `/tmp` is not a file that the run has written: the next run finds it imported."""
    source = "import sys\ndef handler(pd):\n    sys.path.insert(0, {!r})\n    import beside_in_tmp\n    return beside_in_tmp.NUMBER\n"
    numbers = []
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/tmp") as name:
        Path(name, "beside_in_tmp.py").write_text("import random\nNUMBER = random.random()\n")
        for _ in range(2):
            bench = await open_one(folder=Path(name))
            numbers.append((await bench.run("python", source.format(name))).exports.get("$return_value"))
            await bench.workers.release()

    assert numbers[0] is not None
    assert numbers[0] == numbers[1]


async def test_replaced_process_has_the_same_tmp(open_one: Open) -> None:
    """After a step that was ended, the files of the run are still there."""
    bench = await open_one()
    source = (
        f"import fs from 'fs'; export default {{ run() {{ fs.writeFileSync('/tmp/{NAME}', 'x'); console.log('up');"
        " for (;;); } }"
    )
    stuck = await run_until_up(bench, "node", source, timeout_s=100)
    await skip_time(100)
    await stuck

    outcome = await bench.run("node", READ["node"])

    assert outcome.exports["$return_value"] == "x"


@pytest.mark.parametrize(("exists", "reason"), [(False, "No such file or directory"), (True, "Permission denied")])
async def test_unusable_interpreter_is_named(open_one: Open, base: Path, exists: bool, reason: str) -> None:
    """The wrapper program does not hide that the interpreter is missing or cannot be executed."""
    if exists:
        (base / "no-node").touch(mode=0o600)
    pool = WorkerPool(node=base / "no-node")
    bench = await open_one(of=pool)

    with pytest.raises(InterpreterMissingError, match=f"no-node cannot be started: {reason}"):
        await bench.run("node", node("return 1"))

    await pool.close()


async def test_files_of_a_run_are_removed_with_the_run_and_the_folders_with_the_pool(open_one: Open) -> None:
    """The end of a run removes its files; the end of the pool removes the folder of every private `/tmp`."""
    name = f"pdkernel-written-{uuid.uuid4().hex}"
    pool = WorkerPool()
    bench = await open_one(of=pool)
    await bench.run("bash", f"touch /tmp/{name}")
    bases = {Path("/var/tmp"), Path(tempfile.gettempdir())}
    # unlike `Path.glob`, it passes over folders of other pools that end meanwhile
    [found] = (path for base in bases for path in glob.glob(f"{base}/pdkernel-run-*/*/tmp/{name}"))  # noqa: PTH207
    written = Path(found)
    folder_of_pool = written.parents[2]

    await bench.workers.release()
    after_the_run = (written.exists(), folder_of_pool.exists())
    await pool.close()

    assert after_the_run == (False, True)
    assert not folder_of_pool.exists()


EMPTIED = """
import subprocess, sys
from pathlib import Path
from pdkernel.workers.isolation import IsolationPlan
from pdkernel.workers.slot_folder import SlotFolder
base, outside = map(Path, sys.argv[1:3])
mounted = base / "1" / sys.argv[3]
folder = SlotFolder(base, 1, IsolationPlan(namespaces=sys.argv[4] == "namespaces"))
(base / "1" / "tmp" / "beside").mkdir()
mounted.mkdir()
subprocess.run(["mount", "--bind", outside, mounted], check=True)
print(folder.clear())
"""


@pytest.mark.parametrize("kind", ["namespaces", "no namespaces"])
@pytest.mark.parametrize("mounted", ["tmp/mounted", "mounted"])
def test_mount_in_a_slot_is_not_emptied(base: Path, apart: tuple[str, ...], mounted: str, kind: str) -> None:
    """The files behind a mount stay, and the next run gets another slot."""
    outside = base / "outside"
    outside.mkdir()
    (outside / "file").touch()

    done = subprocess.run(
        [*apart, sys.executable, "-c", EMPTIED, base, outside, mounted, kind],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "False"
    assert (outside / "file").exists()
    assert (base / "1" / mounted).is_dir()
    assert not (base / "1" / "tmp" / "beside").exists()

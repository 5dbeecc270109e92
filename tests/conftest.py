"""Fixtures and options of all tests: examples of hypothesis, compiled Go packages, tests that did not run."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

os.environ["PDKERNEL_FORBID_BLOCKING"] = "1"  # before the package is imported: its database calls are checked

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.model import Step
from pdkernel.packages.npm_command import find_npm
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers import GoBuildCache
from pdkernel.workers.interpreters import find_node
from tests.mounts import APART, may_mount

if TYPE_CHECKING:
    from pdkernel.storage import Project
    from tests.accounts.upstream import Upstream
    from tests.cli.fork_server import ForkServer
    from tests.postgres import PostgresServer

if sys.platform == "linux":
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/var/tmp")  # steps have a `/tmp` of their own
NOT_RUN = "NOT RUN: "
"""Start of the reason of a skipped test that the summary lists."""
LONG_PACKAGES = {
    name: place
    for place, name in enumerate(
        ("browser", "conformance", "product", "simulation", "cli", "server", "workers", "engine", "durability")
    )
}
"""Packages whose tests take longest, and their order."""
SHARING_PACKAGES = {"browser", "conformance"}
"""Packages whose modules share a server."""
OF_A_MODULE = {"shared_engine", "shared_runs", "shared_sites", "shared_depot", "shared_site"}
"""Fixtures on the event loop of a module, on which their tests run, too."""
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pdkernel-tests"
"""Files that take long to make, kept for the next test run of this user."""

# tests and the commands that they start store nothing in the keyring of the user
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"

# without byte code, each of the processes that tests start would compile the package again, and each process of pytest all tests
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# if another environment is active in the shell, IPython warns in each kernel and each notebook of a test
os.environ.pop("VIRTUAL_ENV", None)

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # a run in the background of a shell: programs of tests would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# an optional package of jsonschema that compiles 38 grammars when it is imported, for formats that no schema here has
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: the import raises ImportError

# httpx tries to import it several times for each request to an application, and looks through the whole path each time
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]  # None: the import raises ImportError

# HTTP clients refuse to start with a missing file of certificates, also for addresses without TLS
for _name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "PIP_CERT"):
    if not Path(os.environ.get(_name, "")).is_file():
        os.environ.pop(_name, None)

# a time limit for an example would fail on a busy machine
settings.register_profile("gate", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("sweep", settings.get_profile("gate"), max_examples=1000)
settings.load_profile("gate")  # --hypothesis-profile replaces it before the tests are imported


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """
    Without a connection to the first process for what `--reruns` counts: each test would wait 40 ms on it.

    The plugin writes twice before it reads, so the second message waits until the first is acknowledged. The counts are only for a test
    that ends its process, which `--dist loadfile` does not repeat.
    """
    if "PYTEST_XDIST_WORKER" in os.environ and hasattr(config, "failures_db"):
        from pytest_rerunfailures import StatusDB  # type: ignore[import-untyped]  # the plugin has no types

        config.failures_db.sock.close()
        config.failures_db = StatusDB()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """
    Remove a project in the root folder that a test has made, and print its name: other tests would find it as the nearest one, and share it.

    A test run by root can make one, by a command whose working folder is the root folder.
    """
    project = Path("/.pdkernel")
    existed = project.exists()
    found = yield
    if not existed and project.exists():
        remove_tree(project)
        sys.__stderr__.write(f"\nA project was in the root folder after {item.nodeid}, and was removed.\n")  # type: ignore[union-attr]  # pytest has it
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Run the packages of `LONG_PACKAGES` first, so that several processes end at about the same time, and `OF_A_MODULE` on one loop.

    Tests with the marker `slow` run only if the option `-m` names that marker.
    """
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    for item in items:
        if not OF_A_MODULE.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)
    items.sort(key=lambda item: LONG_PACKAGES.get(item.nodeid.split("/")[1], len(LONG_PACKAGES)))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """
    Collect the tests without garbage collection, whose later runs leave out the modules and the tests: it would take seconds.

    With several processes, the first one compiles the tests, and the others wait for its byte code instead of compiling them too.
    """
    gc.disable()
    try:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            return (yield)
        shared = _shared_folder(session.config)
        compiled = shared / "tests-compiled"
        with _locked(shared / "compile-lock"):
            if not compiled.exists():
                result = yield
                compiled.touch()
                return result
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(
            10_000, *gc.get_threshold()[1:]
        )  # by default, a sixteenth of the time of all tests is spent on it
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, run the modules of a package with shared servers in one process, and keep the order of the tests."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            package = nodeid.split("/")[1]
            return package if package in SHARING_PACKAGES else super()._split_scope(nodeid)

    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs a registry if the registries do not respond."""
    if item.get_closest_marker("network") and (problem := _registry_problem(item)):
        pytest.skip(f"{NOT_RUN}{problem}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that did not run, by reason."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.getreports("skipped"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if NOT_RUN in reason:
            names[reason.partition(NOT_RUN)[2]].append(report.nodeid)
    for reason, tests in names.items():
        terminalreporter.section(f"NOT RUN: {len(tests)} tests: {reason}")
        for name in tests:
            terminalreporter.write_line(f"NOT RUN {name}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _shared_folder(config: pytest.Config) -> Path:
    """The temporary folder that all processes of a test run share."""
    factory: pytest.TempPathFactory = config._tmp_path_factory  # type: ignore[attr-defined]
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def _registry_problem(item: pytest.Item) -> str:
    """Why packages cannot be installed, or an empty text; found out once for all processes of a test run."""
    shared = _shared_folder(item.config)
    known = shared / "registry-problem"
    with _locked(shared / "registry-lock"):
        if not known.exists():
            known.write_text(_try_registries(shared / "registry-download"))
        return known.read_text()


def _try_registries(folder: Path) -> str:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "0", "--timeout", "20"]
    node = find_node()
    npm = [str(node), str(find_npm(node, os.environ)), "view", "--fetch-retries=0", "--fetch-timeout=20000"]
    commands = {
        "the Python registry": [*pip, "--dest", str(folder), "pipedream==2.3.0"],
        "the npm registry": [*npm, "@pipedream/sdk@3.1.6", "version"],
    }
    running = {
        name: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name, command in commands.items()
    }
    absent = [name for name, process in running.items() if process.wait() != 0]
    return f"{' and '.join(absent)} cannot be reached" if absent else ""


@pytest.fixture(scope="session", autouse=True)
def visible_test_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Steps may read and change the files of tests. Tests of isolation remove the variable."""
    os.environ[STEP_PATHS_VARIABLE] = str(tmp_path_factory.getbasetemp())
    yield
    del os.environ[STEP_PATHS_VARIABLE]


@pytest.fixture(scope="session")
def fork_server() -> ForkServer:
    """One process that forks a child for each command."""
    from tests.cli.fork_server import shared_server

    return shared_server()


@pytest.fixture(scope="session")
def go_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Go steps; Go's own packages in it are compiled once for all test runs, since that takes long."""
    folder = tmp_path_factory.mktemp("go")
    build = KEPT / "go-build"
    build.mkdir(parents=True, exist_ok=True)
    (folder / "build").symlink_to(build)
    step = Step("warm", "go", 'package main\nimport "net/http"\nfunc main() { println(http.MethodGet) }\n')
    with _locked(KEPT / "go-lock"):  # processes share the compiled packages: only the first compiles them
        asyncio.run(
            GoBuildCache(folder, lock=folder / "go.mod").build_program(
                step, install=False, report_progress=lambda _: None
            )
        )
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, which all processes of a test run share."""
    from tests.postgres import shared_postgres

    # not the temporary folder of the tests: the path of a Unix socket is short; a later run has that folder's name, too
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}-{time.time()}")
    run = hashlib.blake2b(run.encode(), digest_size=6).hexdigest()
    with shared_postgres(Path(tempfile.gettempdir()) / f"pdk-postgres-{run}") as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL."""
    with postgres.new_database() as url:
        yield url


@pytest.fixture
def real_workflow_files() -> list[Path]:
    """Real `workflow.yaml` files, in the folder that PDKERNEL_SAMPLES names."""
    folder = os.environ.get("PDKERNEL_SAMPLES")
    if not folder:
        pytest.skip(f"{NOT_RUN}PDKERNEL_SAMPLES names no folder of real workflow.yaml files")
    files = sorted(Path(folder).glob("*.workflow.yaml"))
    assert files
    return files


@pytest.fixture
def apart() -> tuple[str, ...]:
    """A command prefix for a private mount namespace, where a mistake about mounts is harmless."""
    if not may_mount():
        pytest.skip("this user may not mount in a namespace of its own (unshare --mount)")
    return APART


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project whose clock stands still until a test advances it."""
    from pdkernel.common.clock import ManualClock
    from pdkernel.storage import Project

    with Project.open(tmp_path / ".pdkernel", clock=ManualClock()) as project:
        yield project


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The API of a real project."""
    from tests.accounts.upstream import running_upstream

    with running_upstream() as api:
        yield api

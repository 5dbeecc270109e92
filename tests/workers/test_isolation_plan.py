"""Plans: what the processes of a slot see."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.errors import RequestError
from pdkernel.workers import isolation_plan
from pdkernel.workers.isolation import Isolation, IsolationPlan, Mount, StepAccess
from pdkernel.workers.isolation_plan import (
    MAX_COPIED_BYTES,
    CodeCopies,
    CodeNotCopiedError,
    check_size,
    find_user_obstacle,
    plan_access,
)

OTHER_USER = 65534
EVERYTHING = Isolation(namespaces=True, landlock=True)
WHY = (("namespaces", "Operation not permitted"), ("landlock", "the kernel does not provide it"), ("user", "not root"))


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder outside of `/tmp` that all users may enter; no paths are configured."""
    monkeypatch.delenv(STEP_PATHS_VARIABLE, raising=False)
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def slot_copies(base: Path) -> CodeCopies:
    """Copies beside the slots."""
    return CodeCopies(base / "copies")


def plan_of(
    base: Path,
    access: StepAccess,
    isolation: Isolation = EVERYTHING,
    number: int = 1,
    copies: CodeCopies | None = None,
) -> IsolationPlan:
    """The plan of a slot in *base*."""
    (base / "slots").mkdir(exist_ok=True)
    return plan_access(isolation, access, slots=base / "slots", copies=copies).of_slot(number)


def project_in(folder: Path) -> tuple[Path, StepAccess]:
    """A project in *folder*, and the access of its steps."""
    hidden = folder / ".pdkernel"
    for name in ("packages", "files"):
        hidden.joinpath(name).mkdir(parents=True)
    for path in (folder / "code.js", hidden / "key"):
        path.touch()
    return hidden, StepAccess(
        frozenset({folder, hidden / "packages"}), frozenset({hidden / "files"}), frozenset({hidden})
    )


def mounts_below(plan: IsolationPlan, folder: Path) -> list[Mount]:
    """The mounts of *plan* at and below *folder*."""
    return [each for each in plan.mounts if Path(each.target).is_relative_to(folder)]


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("components/desk/actions/send/send.mjs", ""),
        ("components/desk/sources/new/new.mjs", ""),
        ("apps/desk/actions/send/send.mjs", "apps"),
        ("apps/desk/sources/new/new.mjs", "apps"),
        ("own/send.mjs", "own"),
        ("missing.mjs", "missing.mjs"),
    ],
)
def test_folder_of_a_component(tmp_path: Path, file: str, folder: str) -> None:
    """A component may load the files of all apps beside its own, and otherwise the files beside it."""
    if "/" in file:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()

    assert isolation_plan.component_folder(tmp_path / file) == tmp_path / folder


def test_folders_of_a_program(tmp_path: Path) -> None:
    """An interpreter needs its own folder, and that of the program to which its path leads."""
    for name in ("real", "environment"):
        (tmp_path / name / "bin").mkdir(parents=True)
    (tmp_path / "real" / "bin" / "python3").touch()
    link = tmp_path / "environment" / "bin" / "python"
    link.symlink_to(tmp_path / "real" / "bin" / "python3")
    beside = tmp_path / "beside" / "node"
    beside.parent.mkdir()
    beside.touch()

    assert isolation_plan.program_folders(link) == {tmp_path / "environment", tmp_path / "real"}
    assert isolation_plan.program_folders(beside) == {tmp_path / "beside"}


def test_packages_above_a_folder(tmp_path: Path) -> None:
    """Node.js loads packages from each folder above, the nearest first."""
    for name in ("node_modules", "a/b/node_modules", "a/b/c/node_modules"):
        (tmp_path / name).mkdir(parents=True)

    found = isolation_plan.node_modules_above(tmp_path / "a" / "b" / "c")

    assert found[:2] == (tmp_path / "a" / "b" / "node_modules", tmp_path / "node_modules")


def test_slot_has_its_own_tmp_and_no_other_slot(base: Path) -> None:
    """`/tmp` and shared memory are a folder of the slot, of which nothing else is visible; the folders of slots are hidden."""
    plan = plan_of(base, StepAccess())

    assert plan.mounts[:2] == (
        Mount("/tmp", f"{base}/slots/1/tmp", writable=True),
        Mount("/dev/shm", f"{base}/slots/1/tmp", writable=True),
    )
    assert mounts_below(plan, base) == [Mount(f"{base}/slots", None)]
    assert not [path for path in plan.write if path.startswith(str(base))]


@pytest.mark.skipif(not Path("/run").is_dir(), reason="this system has no /run")
def test_sockets_of_services_are_hidden(base: Path) -> None:
    """Steps do not see the sockets in `/run`, such as that of Docker, also if a step may read something there."""
    plan = plan_of(base, StepAccess(read=frozenset({Path("/run/nothing")})))

    assert [each.source for each in plan.mounts if each.target == "/run"] == [None]
    assert "/run" not in (*plan.read, *plan.write)


def test_secrets_of_the_project_are_hidden(base: Path) -> None:
    """Of `.pdkernel`, packages can be read and the file store can be changed; the rest is not there."""
    hidden, access = project_in(base / "project")
    plan = plan_of(base, access)

    assert mounts_below(plan, base / "project") == [
        Mount(str(hidden), None, shared=True),
        Mount(str(hidden / "packages"), str(hidden / "packages"), shared=True),
        Mount(str(hidden / "files"), str(hidden / "files"), writable=True, shared=True),
    ]
    assert str(base / "project") in plan.read
    assert str(hidden / "files") in plan.write


@pytest.mark.parametrize("isolation", [EVERYTHING, replace(EVERYTHING, namespaces=False)])
def test_a_hidden_folder_of_code_stays_hidden(base: Path, isolation: Isolation) -> None:
    """The project's own folder is hidden also from steps whose code would be in it."""
    hidden, access = project_in(base / "project")

    plan = plan_of(base, access.extend((hidden,), ()), isolation)

    assert plan == plan_of(base, access, isolation)


def test_landlock_alone_names_what_is_beside_the_secrets(base: Path) -> None:
    """Without mounts, the rules name each child of the project's folder besides `.pdkernel`."""
    hidden, access = project_in(base / "project")
    plan = plan_of(base, access, replace(EVERYTHING, namespaces=False))

    assert plan.mounts == ()
    assert [path for path in plan.read if path.startswith(str(base))] == [
        str(hidden / "packages"),
        str(base / "project" / "code.js"),
    ]


def test_project_in_tmp_is_visible_and_read_only(base: Path) -> None:
    """A project in `/tmp` is visible in the private `/tmp`, without what is beside it."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/tmp") as folder:
        _, access = project_in(Path(folder) / "project")
        plan = plan_of(base, access)
    names_without_project = plan_of(base, StepAccess()).tmp_names

    assert mounts_below(plan, Path(folder))[:2] == [
        Mount(folder, None),
        Mount(f"{folder}/project", f"{folder}/project"),
    ]
    assert plan.tmp_names == {Path(folder).name, *names_without_project}


def test_workflow_in_the_home_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a workflow in the home folder read what is in it, but for names that begin with a dot."""
    monkeypatch.setenv("HOME", str(base / "home"))
    for name in (".ssh", "data"):
        (base / "home" / name).mkdir(parents=True)
    isolation_plan._too_wide.cache_clear()
    plan = plan_of(base, StepAccess(read=frozenset({base / "home"})))
    isolation_plan._too_wide.cache_clear()

    assert [path for path in plan.read if path.startswith(str(base))] == [str(base / "home" / "data")]


@pytest.mark.parametrize("wide", ["/", "/tmp", "/var", "/dev", "~"])
def test_workflow_in_a_wide_folder(base: Path, monkeypatch: pytest.MonkeyPatch, wide: str) -> None:
    """A folder with more than code is not shown as a whole, also if a workflow is in it."""
    home = base / "home" if wide == "~" else Path("/home/nobody")  # the folders above the home are too wide, too
    (base / "home" / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    isolation_plan._too_wide.cache_clear()
    folder = Path(wide).expanduser()
    try:
        plan = plan_of(base, StepAccess(read=frozenset({folder})))
    except RequestError:  # this machine has very many projects there, so no step runs
        return
    finally:
        isolation_plan._too_wide.cache_clear()

    assert str(folder) not in plan.read
    assert str(base / "home" / ".ssh") not in plan.read


def test_a_folder_with_very_many_projects_is_refused(base: Path) -> None:
    """Projects beside the code are hidden one by one, so a folder with more of them than a process can hide runs no steps."""
    for number in range(101):
        (base / "code" / str(number) / ".pdkernel").mkdir(parents=True)

    with pytest.raises(RequestError, match="contains more than 100 other projects"):
        plan_of(base, StepAccess(read=frozenset({base / "code"})))


@pytest.mark.parametrize("by_link", [False, True])
def test_what_steps_can_change_is_not_searched_for_projects(
    base: Path, monkeypatch: pytest.MonkeyPatch, *, by_link: bool
) -> None:
    """Folders that steps make in a configured path neither refuse runs nor keep another project from being hidden."""
    code, project = base / "code", base / "code" / "zoo" / ".pdkernel"
    for path in (project, *(code / "reports" / str(number) / ".pdkernel" for number in range(101))):
        path.mkdir(parents=True)
    (base / "link").symlink_to(code)
    monkeypatch.setenv(STEP_PATHS_VARIABLE, str(base / ("link" if by_link else "code") / "reports"))

    plan = plan_of(base, StepAccess(read=frozenset({code})))

    hidden = [each.target for each in mounts_below(plan, code) if each.source is None]
    assert hidden == [str(project)]


def test_the_library_of_an_interpreter_is_not_searched_for_projects(base: Path) -> None:
    """The hundreds of folders that come with an interpreter have no projects; a folder of the same name may have one."""
    installed, own = base / "3.12" / "lib" / "python3.12", base / "code" / "lib" / "python3.12"
    for folder in (installed, own):
        (folder / "email" / ".pdkernel").mkdir(parents=True)
    (installed / "os.py").touch()

    plan = plan_of(base, StepAccess(read=frozenset({base / "3.12", base / "code"})))

    hidden = [each.target for each in mounts_below(plan, base) if each.source is None]
    assert f"{own}/email/.pdkernel" in hidden
    assert not any(target.startswith(str(installed)) for target in hidden)


def test_programs_of_version_managers_are_visible(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts in a folder `shims` of PATH call programs in the folder above."""
    (base / "manager" / "shims").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{base}/manager/shims:/usr/bin")

    assert str(base / "manager") in plan_of(base, StepAccess(read=frozenset({base / "slots"}))).read


def test_more_paths_are_configured(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`PDKERNEL_STEP_PATHS` names paths that steps may change; a path that does not exist is ignored."""
    (base / "data").mkdir()
    monkeypatch.setenv(STEP_PATHS_VARIABLE, f"{base}/data:{base}/nothing:relative")

    found = plan_of(base, StepAccess()).write

    assert [path for path in found if path.startswith(str(base))] == [f"{base}/data"]


def test_landlock_alone_permits_the_working_folder_only(base: Path) -> None:
    """Without mounts, steps change their working folder, and nothing beside it in the folder of the slot."""
    plan = plan_of(base, StepAccess(), Isolation(landlock=True))

    assert [path for path in plan.write if path.startswith(str(base))] == [f"{base}/slots/1/tmp"]
    assert "/tmp" in plan.write


@pytest.mark.parametrize(
    ("isolation", "has_terminals"),
    [
        (Isolation(landlock=True), False),
        (Isolation(landlock=True, namespaces=True), True),
    ],
)
def test_terminals_of_the_server_are_closed(base: Path, isolation: Isolation, has_terminals: bool) -> None:
    """Steps with the user of the server open terminals only if these are their own."""
    plan = plan_of(base, StepAccess(), isolation)

    assert ("/dev/pts" in plan.write) == has_terminals


def test_landlock_alone_permits_no_change_around_the_slots() -> None:
    """If the folders of slots are in `/tmp`, steps without mounts cannot change `/tmp`: they could replace the folders."""
    with tempfile.TemporaryDirectory(prefix="pdkernel-test-", dir="/tmp") as folder:
        plan = plan_access(Isolation(landlock=True), StepAccess(), slots=Path(folder)).of_slot(1)

    assert "/tmp" not in plan.write
    assert f"{folder}/1/tmp" in plan.write


class TestUser:
    """The user ids of workers of a server that runs as root."""

    rooted = replace(EVERYTHING, first_uid=2_000_000_000)

    def test_each_slot_has_its_own(self, base: Path) -> None:
        """Two slots of a process have different users in one group."""
        plans = [plan_of(base, StepAccess(), self.rooted, number) for number in (1, 2)]

        assert len({plan.uid for plan in plans}) == 2
        assert all(plan.uid is not None and 2_000_000_000 < plan.uid < 2_001_000_000 for plan in plans)
        assert {plan.gid for plan in plans} == {2_000_000_000}

    def test_closed_folders_on_the_way_are_covered(self, base: Path) -> None:
        """A path in a folder that other users cannot enter is shown by a mount; the folder itself is hidden."""
        code = base / "closed" / "project"
        code.mkdir(parents=True)
        code.parent.chmod(0o700)
        plan = plan_of(base, StepAccess(read=frozenset({code})), self.rooted)

        assert plan.uid is not None
        assert mounts_below(plan, code.parent) == [
            Mount(str(code.parent), None, shared=True),
            Mount(str(code), str(code), shared=True),
        ]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a copy to another group")
    @pytest.mark.parametrize("mode", [0o750, 0o700, 0o744, 0o751])
    def test_code_that_other_users_may_not_read_is_copied(self, base: Path, slot_copies: CodeCopies, mode: int) -> None:
        """A folder of code that another user cannot both enter and list is shown as a copy; the project's secrets are not in it."""
        hidden, access = project_in(base / "project")
        (base / "project" / "code.js").chmod(0o640)
        (base / "project").chmod(mode)

        plan = plan_of(base, access, self.rooted, copies=slot_copies)

        copy = Path(next(each.source or "" for each in plan.mounts if each.target == str(base / "project")))
        assert plan.uid is not None
        assert {path.name for path in copy.iterdir()} == {"code.js", ".pdkernel"}
        assert list((copy / ".pdkernel").iterdir()) == []
        assert mounts_below(plan, hidden)[0].source is None
        assert find_user_obstacle(self.rooted, access) is None

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a copy to another group")
    def test_what_steps_can_change_is_not_copied(
        self, base: Path, slot_copies: CodeCopies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A step cannot make the code too large for a copy, nor replace a folder by a link while the server copies what is in it."""
        _, access = project_in(base / "project")
        reports = base / "project" / "reports"
        reports.mkdir()
        reports.chmod(0o777)
        with (reports / "large").open("wb") as file:
            file.truncate(MAX_COPIED_BYTES + 1)
        (base / "project").chmod(0o700)
        monkeypatch.setenv(STEP_PATHS_VARIABLE, str(reports))

        plan = plan_of(base, access, self.rooted, copies=slot_copies)

        copy = Path(next(each.source or "" for each in plan.mounts if each.target == str(base / "project")))
        assert plan.uid is not None
        assert find_user_obstacle(self.rooted, access) is None
        assert {path.name for path in copy.iterdir()} == {"code.js", ".pdkernel", "reports"}
        assert list((copy / "reports").iterdir()) == []
        assert Mount(str(reports), str(reports), writable=True, shared=True) in plan.mounts

    @pytest.mark.parametrize("reason", ["without copies", "too large", "without mounts"])
    def test_user_stays_if_another_could_not_read_the_code(
        self, base: Path, slot_copies: CodeCopies, reason: str
    ) -> None:
        """Workers keep the user if the code, or without mounts a folder on the way, is closed to other users, and not copied."""
        code = base / "closed" / "project"
        code.mkdir(parents=True)
        (code if reason != "without mounts" else code.parent).chmod(0o700)
        if reason == "too large":
            with (code / "large").open("wb") as file:
                file.truncate(MAX_COPIED_BYTES + 1)
        isolation = replace(self.rooted, namespaces=reason != "without mounts")
        access = StepAccess(read=frozenset({code}))

        plan = plan_of(base, access, isolation, copies=None if reason == "without copies" else slot_copies)

        assert (plan.uid, plan.gid) == (None, None)
        if reason != "without copies":
            expected = str(code) if reason == "too large" else "namespaces are not available"
            assert expected in (find_user_obstacle(isolation, access) or "")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users for steps")
    def test_packages_of_the_project_are_opened(self, base: Path, slot_copies: CodeCopies) -> None:
        """What pdkernel has installed with a closed mode, in a folder that only its user may enter, is readable for steps."""
        hidden, access = project_in(base / "project")
        hidden.chmod(0o700)
        (hidden / "packages" / "tool").write_text("x")
        (hidden / "packages" / "tool").chmod(0o750)
        (hidden / "packages" / "link").symlink_to(hidden / "key")
        (hidden / "key").chmod(0o600)
        (hidden / "packages").chmod(0o750)

        plan = plan_of(base, access, self.rooted, copies=slot_copies)

        assert plan.uid is not None
        assert stat.S_IMODE((hidden / "packages").stat().st_mode) == 0o755
        assert stat.S_IMODE((hidden / "packages" / "tool").stat().st_mode) == 0o755
        assert stat.S_IMODE((hidden / "key").stat().st_mode) == 0o600

    def test_closed_folder_of_programs_does_not_matter(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder of PATH that only this user may enter has no program that others need."""
        (base / "bin").mkdir(mode=0o700)
        monkeypatch.setenv("PATH", f"{base}/bin:/usr/bin")

        assert plan_of(base, StepAccess(), self.rooted).uid is not None

    def test_other_users_must_change_configured_paths(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers keep the user if another could not change a path of `PDKERNEL_STEP_PATHS`."""
        users = []
        for mode in (0o777, 0o775):
            data = base / f"data{mode:o}"
            data.mkdir()
            data.chmod(mode)
            monkeypatch.setenv(STEP_PATHS_VARIABLE, str(data))
            users.append(plan_of(base, StepAccess(), self.rooted).uid)

        assert [uid is None for uid in users] == [False, True]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
    def test_file_store_belongs_to_the_group(self, base: Path) -> None:
        """Every worker may change every file of the file store, those of earlier runs included."""
        hidden, access = project_in(base / "project")
        (hidden / "files" / "sub").mkdir(mode=0o700)
        for old in (hidden / "files" / "old", hidden / "files" / "sub" / "older"):
            old.write_text("x")
            old.chmod(0o600)

        plan = plan_of(base, access, self.rooted)

        store = (hidden / "files").stat()
        assert (store.st_gid, stat.S_IMODE(store.st_mode)) == (plan.gid, 0o2770)
        for name, mode in (("old", 0o660), ("sub", 0o2770), ("sub/older", 0o660)):
            found = (hidden / "files" / name).stat()
            assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (plan.gid, mode)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
    def test_nothing_outside_of_the_file_store_is_shared(self, base: Path) -> None:
        """What steps have left in the store, before they had users of their own, changes no file of another user or elsewhere."""
        hidden, access = project_in(base / "project")
        store, victim = hidden / "files", base / "victim"
        (victim / "inner").mkdir(parents=True)
        for name in ("key", "linked", "inner/key"):
            (victim / name).write_text("secret")
        for path in (victim, *victim.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)
        (store / "link").symlink_to(victim / "key")
        (store / "folder link").symlink_to(victim)
        (store / "sub").mkdir()
        (store / "sub" / "link").symlink_to(victim / "inner")
        (store / "hard link").hardlink_to(victim / "linked")
        (store / "own").write_text("x")
        (store / "of another user").write_text("x")
        os.chown(store / "of another user", OTHER_USER, OTHER_USER)
        os.mkfifo(store / "pipe", 0o600)
        os.mknod(store / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        deep = store
        for _ in range(300):
            deep = deep / "d"
            deep.mkdir()

        def modes(paths: Iterable[Path]) -> dict[str, tuple[int, int, int]]:
            found = {path.name: path.lstat() for path in paths}
            return {name: (each.st_uid, each.st_gid, each.st_mode) for name, each in found.items()}

        unshared = [victim, *victim.rglob("*"), *(store / name for name in ("of another user", "pipe", "device"))]
        before = modes(unshared)

        plan = plan_of(base, access, self.rooted)

        assert modes(unshared) == before
        for path in (store, store / "own", store / "sub"):
            assert path.stat().st_gid == plan.gid

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
    def test_file_store_that_is_a_link_is_not_shared(self, base: Path) -> None:
        """A link in place of the store does not open the folder that it leads to."""
        hidden, access = project_in(base / "project")
        victim = base / "victim"
        victim.mkdir(mode=0o700)
        (hidden / "files").rmdir()
        (hidden / "files").symlink_to(victim)
        before = victim.stat()

        with pytest.raises(OSError, match="files"):
            plan_of(base, access, self.rooted)

        assert (victim.stat().st_gid, victim.stat().st_mode) == (before.st_gid, before.st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user or without a capability")
@pytest.mark.parametrize("server", ["root", "root with closed code", "root without mounts", "another user"])
def test_steps_of_a_server(base: Path, server: str) -> None:
    """Steps of every language read the code, and neither the key nor the server's environment, whatever user the server has."""
    project_in(base / "project")
    (base / "project" / "code.js").write_text("code")
    (base / "project" / ".pdkernel" / "key").write_text("key")
    command = [sys.executable, str(Path(__file__).with_name("isolated_runs.py")), str(base)]
    if server == "root with closed code":
        (base / "project" / "code.js").chmod(0o640)
        (base / "project").chmod(0o750)
    if server == "root without mounts":
        command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *command]
    elif server == "another user":
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
        if python is None:
            pytest.skip("no interpreter that other users may run")
        command += [str(OTHER_USER), python]
        for place, folders, files in os.walk(base):
            for name in (".", *folders, *files):
                os.chown(Path(place, name), OTHER_USER, OTHER_USER)

    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)
    assert set(steps) == {"python", "node", "bash"}
    for found in steps.values():
        assert (found["key"], found["environment"], found["code"]) == (False, False, True)
        assert (found["tmp"] == "/tmp") == (server != "root without mounts")
        assert found["uid"] == OTHER_USER if server == "another user" else found["uid"] != OTHER_USER
        if server in (
            "root",
            "root with closed code",
        ):  # programs look up the name of their user, and fail if it has none
            assert (found["uid"] > OTHER_USER, found["user"]) == (True, "step")


NOTHING: frozenset[Path] = frozenset()


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def copies(tmp_path: Path, clock: Clock) -> CodeCopies:
    """Copies in an empty folder."""
    return CodeCopies(tmp_path / "copies", clock=clock)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A folder of code that the group of its owner may read."""
    folder = tmp_path / "project"
    (folder / "lib").mkdir(parents=True, mode=0o750)
    (folder / "code.py").write_text("code")
    (folder / "lib" / "tool").write_text("tool")
    (folder / "code.py").chmod(0o640)
    (folder / "lib" / "tool").chmod(0o750)
    folder.chmod(0o750)
    yield folder
    folder.chmod(0o700)


def listed(folder: Path) -> set[str]:
    """The names in *folder* and below."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_copy_may_be_read_by_the_group(copies: CodeCopies, project: Path) -> None:
    """The group may read files, enter folders and execute programs, and change nothing; others may do nothing."""
    copy = copies.provide(project, os.getgid(), NOTHING)

    paths = (copy, copy / "lib", copy / "code.py", copy / "lib" / "tool")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in paths]
    assert modes == [0o750, 0o750, 0o440, 0o550]
    assert {path.stat().st_gid for path in paths} == {os.getgid()}
    assert (copy / "code.py").read_text() == "code"
    assert (copy / "code.py").stat().st_mtime_ns == (project / "code.py").stat().st_mtime_ns


def test_folder_is_copied_once(copies: CodeCopies, project: Path) -> None:
    """A second request returns the same copy."""
    assert copies.provide(project, os.getgid(), NOTHING) == copies.provide(project, os.getgid(), NOTHING)


def test_what_is_skipped_is_empty(copies: CodeCopies, project: Path) -> None:
    """The folder of the project's secrets is a place for a mount, without its content; so is a file."""
    (project / ".pdkernel").mkdir()
    (project / ".pdkernel" / "key").write_text("secret")
    (project / "own.key").write_text("secret")

    copy = copies.provide(project, os.getgid(), frozenset({project / ".pdkernel", project / "own.key"}))

    assert listed(copy) == {"code.py", "lib", "lib/tool", ".pdkernel", "own.key"}
    assert (copy / "own.key").read_bytes() == b""


@pytest.mark.parametrize(("mode", "is_copied"), [(0o750, False), (0o700, True)])
def test_file_that_its_owner_closed_is_not_copied(
    copies: CodeCopies, project: Path, mode: int, *, is_copied: bool
) -> None:
    """Where the group may read the folder, a file that it may not read stays closed; a folder of the owner is copied whole."""
    (project / ".env").write_text("TOKEN=secret")
    (project / ".env").chmod(0o600)
    project.chmod(mode)

    copy = copies.provide(project, os.getgid(), NOTHING)

    assert (".env" in listed(copy)) == is_copied


def test_links_are_not_followed(copies: CodeCopies, project: Path, tmp_path: Path) -> None:
    """A link in the copy leads to where that of the folder leads; nothing outside of the folder is copied."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_text("secret")
    (project / "link").symlink_to(tmp_path / "outside")
    (project / "file link").symlink_to("../outside/key")
    os.mkfifo(project / "pipe")

    copy = copies.provide(project, os.getgid(), NOTHING)

    assert (copy / "link").readlink() == tmp_path / "outside"
    assert str((copy / "file link").readlink()) == "../outside/key"
    assert not (copy / "pipe").exists()


def test_changes_are_copied(copies: CodeCopies, project: Path, clock: Clock) -> None:
    """A changed, new, removed or replaced file is so in the copy after an update, which keeps its place."""
    copy = copies.provide(project, os.getgid(), NOTHING)
    (project / "code.py").write_text("changed")
    (project / "code.py").chmod(0o640)
    (project / "new").mkdir()
    (project / "new" / "file").write_text("new")
    (project / "lib" / "tool").unlink()
    (project / "lib").rmdir()
    (project / "lib").write_text("a file now")

    before = listed(copy)
    copies.update()
    too_early = listed(copy)
    clock.now += 100
    copies.update()

    assert too_early == before
    assert listed(copy) == {"code.py", "new", "new/file", "lib"}
    assert (copy / "code.py").read_text() == "changed"
    assert (copy / "lib").read_text() == "a file now"


def test_update_is_due_after_a_while(copies: CodeCopies, project: Path, clock: Clock) -> None:
    """Without copies nothing is due, and a copy is not checked at each run."""
    without = copies.is_update_due()
    copies.provide(project, os.getgid(), NOTHING)
    at_once = copies.is_update_due()
    clock.now += 2

    assert (without, at_once, copies.is_update_due()) == (False, False, True)


def test_large_folder_is_not_copied(copies: CodeCopies, project: Path, tmp_path: Path) -> None:
    """A folder beyond the limit is refused before its content is read, with the reason, and leaves no file."""
    with (project / "large").open("wb") as file:
        file.truncate(isolation_plan.MAX_COPIED_BYTES + 1)
    (project / "large").chmod(0o640)

    with pytest.raises(CodeNotCopiedError, match="more than 1,024 MB"):
        copies.provide(project, os.getgid(), NOTHING)

    assert "more than 1,024 MB" in (check_size(project, NOTHING) or "")
    assert check_size(project, frozenset({project / "large"})) is None
    assert listed(tmp_path / "copies") == set()

"""`pdkernel packages`, and installations by `run`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pdkernel.packages import NPM_LOCK_NAME, PYTHON_LOCK_NAME
from pdkernel.packages.python_lock import describe_machine
from tests.cli.conftest import Shell
from tests.npm_registry import NpmRegistry, npm_registry

STEP = "%%pdstep code --lang node\nimport tiny from 'tiny';\nexport default { run() { return tiny } }"


@pytest.fixture
def registry() -> Iterator[NpmRegistry]:
    """A registry with one package."""
    with npm_registry() as running:
        running.publish("tiny", "1.0.0")
        yield running


@pytest.fixture
def environ(registry: NpmRegistry, pdkernel: Shell) -> dict[str, Any]:
    """The environment variables of a command that installs from the registry."""
    return {name: value for name, value in registry.environ(pdkernel.folder).items() if name.startswith("npm_")}


def test_run_installs_packages(pdkernel: Shell, environ: dict[str, Any]) -> None:
    """Installations are reported on stderr; stdout is the one JSON value."""
    source = pdkernel.notebook(STEP)

    ended = pdkernel("run", source, "--body", "{}", "--json", **environ)

    assert (ended.status, ended.json["steps"][0]["exports"]) == (0, {"$return_value": "1.0.0"})
    assert "installing tiny ...\ninstalled tiny@1.0.0 in " in ended.stderr


def test_no_install_names_the_command(pdkernel: Shell, environ: dict[str, Any]) -> None:
    """`--no-install` and its variable refuse with status 2; after the named command the same run succeeds."""
    off = STEP.replace("%%pdstep code", "%%pdstep off --disabled").replace("'tiny'", "'missing'")
    source = pdkernel.notebook(STEP, off, name="my work.ipynb")
    # the owner of an account does not matter for packages
    pdkernel.write("my work.pdkernel.yaml", "steps: {off: {accounts: {slack: unanswered}}}\n")

    refused = pdkernel("run", source, "--body", "{}", "--no-install", **environ)
    by_variable = pdkernel("run", source, "--body", "{}", "--json", PDKERNEL_NO_INSTALL="1", **environ)
    installed = pdkernel("packages", "install", source, **environ)
    ran = pdkernel("run", source, "--body", "{}", "--no-install", **environ)

    assert (refused.status, by_variable.status) == (2, 2)
    assert "Install it: pdkernel packages install 'my work.ipynb'" in refused.stderr
    assert by_variable.json["error"]["code"] == "package_missing"
    assert (installed.status, ran.status) == (0, 0)
    assert "installing tiny ...\ninstalled tiny@1.0.0 in " in installed.stderr


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (STEP.replace("'tiny'", "'tiny@../../x'"), "'tiny@../../x' is not the name of an npm package"),
        (STEP.replace("'tiny'", "'git+https://host/x'"), "'git+https://...' is a URL"),
        (
            "%%pdstep code\n# pipedream add-package tiny-1.0-py3-none-any.whl\ndef handler(pd):\n    return 1",
            "`# pipedream add-package tiny-1.0-py3-none-any.whl`, which does not name a package",
        ),
    ],
)
def test_an_invalid_package_name_is_refused(
    pdkernel: Shell, environ: dict[str, Any], registry: NpmRegistry, cell: str, words: str
) -> None:
    """A run and an installation are refused with status 2 and the step's name; no registry is contacted."""
    (pdkernel.folder / "tiny-1.0-py3-none-any.whl").write_bytes(b"not looked at")
    source = pdkernel.notebook(cell)

    for ended in (
        pdkernel("run", source, "--body", "{}", **environ),
        pdkernel("packages", "install", source, **environ),
    ):
        assert ended.status == 2
        assert "Step code (cell 1, line 2)" in ended.stderr
        assert words in ended.stderr
    assert registry.asked == []


def test_a_missing_package_fails_the_run(pdkernel: Shell, environ: dict[str, Any]) -> None:
    """The status is 1, as for any failed step; the timeline has the message, without npm's own output."""
    source = pdkernel.notebook(STEP.replace("tiny", "lodahs"))

    ended = pdkernel("run", source, "--body", "{}", **environ)
    installing = pdkernel("packages", "install", source, **environ)

    assert (ended.status, installing.status) == (1, 1)
    assert "The steps import no packages" not in installing.stdout
    assert "There is no npm package lodahs. Did you mean lodash" in " ".join(ended.stdout.split())
    assert "npm error" not in ended.stdout + ended.stderr + installing.stderr


def test_an_installation_as_json(pdkernel: Shell, environ: dict[str, Any]) -> None:
    """With --json, the packages of each step and the errors are one value."""
    missing = STEP.replace("tiny", "lodahs").replace("%%pdstep code", "%%pdstep other")

    done = pdkernel("packages", "install", pdkernel.notebook(STEP, missing), "--json", **environ)

    assert done.status == 1
    assert (done.json["steps"], done.json["python"]) == ({"code": ["tiny"]}, {})
    assert [(each["step"], each["code"]) for each in done.json["errors"]] == [("other", "package_install")]


def test_list_shows_locked_and_installed_packages(pdkernel: Shell, environ: dict[str, Any]) -> None:
    """In a fresh checkout the lock file lists packages, and none is installed."""
    before = pdkernel("packages", "list")
    pdkernel("packages", "install", pdkernel.notebook(STEP), **environ)
    after = pdkernel("packages", "list", "--json")
    other = pdkernel.folder / "other"
    other.mkdir()
    (other / NPM_LOCK_NAME).write_text((pdkernel.folder / NPM_LOCK_NAME).read_text())
    fresh = pdkernel("packages", "list", "--project", "other")

    assert before.stdout.startswith("No packages.")
    assert after.json == [{"language": "node", "import": "tiny", "version": "1.0.0", "installed": True}]
    assert fresh.stdout == "tiny  1.0.0  (not installed)\n"


def test_python_packages_are_listed_once(pdkernel: Shell) -> None:
    """A Python package that several blocks of the lock file have is one row for each of its versions."""
    blocks = [f"# {name} for {name} | {describe_machine()}\ntiny=={version} \\\n    --hash=sha256:{'0' * 64}\n" for name, version in (("a", "1.0"), ("b", "1.0"), ("c", "2.0"))]  # fmt: skip
    pdkernel.write(PYTHON_LOCK_NAME, "\n".join(blocks))

    listed = pdkernel("packages", "list", "--json").json

    assert listed == [
        {"language": "python", "import": "tiny", "version": version, "installed": False} for version in ("1.0", "2.0")
    ]

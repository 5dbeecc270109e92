"""The kernel: its start, its modules, its replies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pdkernel.version import VERSION
from tests.kernel.conftest import RunningKernel
from tests.lab_files import CHECKOUT, private_environment

Start = Callable[..., RunningKernel]

PROVIDER = (
    "from pdkernel.magics.completion import register_matchers\n"
    "register_matchers(get_ipython(), lambda: {'trigger': {'event': {'body': {'title': 'x'}}}})"
)


def test_kernelspec_starts_the_kernel(start_kernel: Start) -> None:
    """The kernelspec starts the kernel, which reports its name pdkernel and the language Python."""
    kernel = start_kernel("pdkernel")

    info = kernel.client.kernel_info(reply=True, timeout=60)["content"]

    assert info["implementation"] == "pdkernel"
    assert info["language_info"]["name"] == "python"
    assert info["banner"].startswith("Pipedream workflow (pdkernel")


def test_extension_is_loaded_silently(start_kernel: Start) -> None:
    """`%load_ext pdkernel` prints nothing in the kernel, also repeatedly; Python still works."""
    kernel = start_kernel("pdkernel")

    assert kernel.run("%load_ext pdkernel") == []
    assert kernel.run("import sys; sys.version_info.major") == [
        {"type": "execute_result", "data": {"text/plain": "3"}, "metadata": {}, "execution_count": 2}
    ]


def test_completion_request(start_kernel: Start) -> None:
    """A completion request in a step's cell is answered with the paths of the event."""
    kernel = start_kernel("pdkernel")
    kernel.run(PROVIDER)
    cell = "# sends it\n%%pdstep send --lang node\nreturn steps.trigger.event.body.t"

    assert kernel.complete(cell) == (len(cell) - 1, ["title"])
    assert kernel.complete("%%pdstep send --la") == (len("%%pdstep send "), ["--lang"])
    assert kernel.complete("%%pdstep send --lang bash\nls /et")[1] == []


def test_plain_python_kernel_completes_too(start_kernel: Start) -> None:
    """After `%load_ext pdkernel`, a `python3` kernel completes the same; after unloading, it does not."""
    kernel = start_kernel("python3")
    cell = "%%pdstep send --lang node\nreturn steps.trigger.event.body."
    kernel.run("%load_ext pdkernel")
    kernel.run(PROVIDER)

    assert kernel.complete(cell)[1] == ["title"]
    kernel.run("%unload_ext pdkernel")
    assert kernel.complete(cell)[1] == []


def test_reload_leaves_one_of_each(start_kernel: Start) -> None:
    """`%reload_ext pdkernel` leaves one matcher and one transformer."""
    kernel = start_kernel("pdkernel")
    kernel.run("%load_ext pdkernel\n%reload_ext pdkernel")

    shown = kernel.run("ip = get_ipython(); len(ip.Completer.custom_matchers), len(ip.input_transformers_cleanup)")

    plain = kernel.run("%unload_ext pdkernel\nlen(ip.Completer.custom_matchers), len(ip.input_transformers_cleanup)")
    counts = [json.loads(each[-1]["data"]["text/plain"].replace("(", "[").replace(")", "]")) for each in (shown, plain)]
    assert counts[0] == [count + 1 for count in counts[1]]


def test_kernelspec_is_complete() -> None:
    """The kernelspec has a display name, an icon and no path of this machine."""
    folder = CHECKOUT / "pdkernel" / "kernel" / "kernelspec"
    spec = json.loads((folder / "kernel.json").read_text())

    assert spec["display_name"] == "Pipedream workflow (pdkernel)"
    assert spec["argv"] == ["python", "-m", "pdkernel.kernel", "-f", "{connection_file}"]
    assert (folder / "logo-svg.svg").read_text().startswith("<svg")


def test_lab_accepts_the_extension(tmp_path: Path) -> None:
    """`jupyter labextension list` finds the extension enabled and compatible."""
    command = [sys.executable, "-m", "jupyterlab.labextensions", "list"]

    done = subprocess.run(
        command, cwd=tmp_path, env=private_environment(tmp_path), check=True, capture_output=True, text=True
    )

    line = next(line for line in (done.stdout + done.stderr).splitlines() if "pdkernel v" in line)
    assert "enabled" in line
    assert "OK" in line


def test_versions_agree() -> None:
    """The Lab extension has the package's version."""
    package = json.loads((CHECKOUT / "pdkernel" / "kernel" / "labextension" / "package.json").read_text())

    assert package["version"] == VERSION


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_exported_file_is_the_cell(start_kernel: Start, tmp_path: Path, end: str) -> None:
    """A step's file ends like its cell: no newline is added or removed."""
    kernel = start_kernel("pdkernel")
    body = f"def handler(pd):\n    return 1{end}"

    kernel.run(f"%%pdstep only --no-run\n{body}")
    kernel.run("%pdexport --to exported")

    assert (tmp_path / "exported/only/entry.py").read_bytes() == body.encode()

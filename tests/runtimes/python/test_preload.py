"""Which modules the zygote imports before the fork."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pdkernel.runtimes.python import preload

PROBE = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import preload
print(json.dumps([
    None if (found := preload._probe(name)) is None else found["read"] + ["a fork"] * found["hooks"] for name in sys.argv[3:]
]))
"""


def probe(folder: Path, *names: str) -> list[list[str] | None]:
    """
    Return for each module, whose file may be in *folder*, what it reads, or None if its import has effects.

    A module that wants to know of a fork reads "a fork".
    """
    runtime = Path(preload.__file__).parent
    command = [sys.executable, "-I", "-B", "-c", PROBE, str(folder), str(runtime), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[list[str] | None] = json.loads(done.stdout)
    return found


def test_common_modules_are_harmless(tmp_path: Path) -> None:
    """
    The import of the modules that every zygote imports has no effect and reads no variable.

    Of those that want to know of a fork, `random` needs `preload.follow_fork`, and the others only have locks.
    """
    found = dict(zip(preload.COMMON_MODULES, probe(tmp_path, *preload.COMMON_MODULES), strict=True))

    assert {name: read for name, read in found.items() if read not in ([], ["a fork"])} == {}


SOURCES = {
    "clean": ("import json\nVALUE = 1\n", []),
    "reads": (
        "import os\nLEVEL = os.environ.get('MY_LEVEL', 'info') + os.getenv('OTHER', '')\n",
        ["MY_LEVEL", "OTHER"],
    ),
    "reads_home": ("import os\nHOME = os.path.expanduser('~')\n", None),
    "reads_proxy": ("import os\nPROXY = os.environ.get('https_proxy')\n", None),
    "reads_proxy_in_capitals": ("import os\nPROXY = os.environ.get('HTTPS_PROXY')\n", None),
    "reads_certificates": ("import os\nFILE = os.getenv('SSL_CERT_FILE')\n", None),
    "reads_the_gateway": ("import os\nADDRESS = os.environ.get('PDK_EGRESS')\n", None),
    "asks": ("import os\nHAS = 'MINE' in os.environ\n", ["MINE"]),
    "counts": ("import os\nCOUNT = len(os.environ)\n", None),
    "copies": ("import os\nALL = dict(os.environ)\n", None),
    "sets": ("import os\nos.environ['MINE'] = '1'\n", None),
    "connects": ("import socket\ns = socket.socket()\ns.settimeout(1)\ns.connect_ex(('127.0.0.1', 9))\n", None),
    "resolves": ("import socket\ntry: socket.getaddrinfo('localhost', 1)\nexcept OSError: pass\n", None),
    "tries_a_port": ("import socket\nwith socket.socket() as s: s.bind(('127.0.0.1', 0))\n", []),
    "takes_a_port": ("import socket\nwith socket.socket() as s: s.bind(('127.0.0.1', 1))\n", None),
    "keeps_a_socket": ("import socket\nS = socket.socket()\n", None),
    "starts_a_thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n",
        None,
    ),
    "starts_a_process": ("import subprocess\nsubprocess.run(['true'])\n", None),
    "writes": ("open('/dev/null', 'w').close()\n", None),
    "has_hooks": ("import os\nos.register_at_fork(after_in_child=list)\n", ["a fork"]),
    "fails": ("raise ValueError\n", None),
    "exits": ("raise SystemExit(0)\n", None),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str] | None]:
    """The results of all modules, from one process."""
    folder = tmp_path_factory.mktemp("modules")
    for name, (source, _) in SOURCES.items():
        (folder / f"{name}.py").write_text(source)
    return dict(zip(SOURCES, probe(folder, *SOURCES), strict=True))


@pytest.mark.parametrize("name", SOURCES)
def test_module_with_effects_is_found(found: dict[str, list[str] | None], name: str) -> None:
    """A module that a run could notice is not imported; the variables that another one reads are known."""
    assert found[name] == SOURCES[name][1]

"""Python steps."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import JSON, Step
from pdkernel.workers import StepRecorder
from tests.workers.conftest import Bench, OpenRun


@pytest.fixture
def bench(warm_bench: Bench) -> Bench:
    """A run whose processes earlier tests may have used."""
    return warm_bench


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("return asyncio.run(wait())", ["a", "b"]),
        ("with ThreadPoolExecutor(4) as pool: return sorted(pool.map(str.upper, 'ba'))", ["A", "B"]),
        ("return list(csv.DictReader(io.StringIO('name,n\\nAda,1\\n')))", [{"name": "Ada", "n": "1"}]),
        ("return [each.text for each in ElementTree.fromstring('<a><b>1</b><b>2</b></a>').iter('b')]", ["1", "2"]),
        ("return parse_qs('name=Ada+L&name=Bob')", {"name": ["Ada L", "Bob"]}),
        ("return datetime(2026, 3, 29, 1, tzinfo=UTC).astimezone(ZoneInfo('Europe/Berlin')).isoformat()", "2026-03-29T03:00:00+02:00"),
        ("return subprocess.run(['echo', 'hi'], capture_output=True, text=True, check=True).stdout", "hi\n"),
        ("return base64.b64encode(hmac.digest(b'key', b'text', 'sha256')).decode()[:4]", "avqQ"),
        ("return json.loads(json.dumps({'a': [1, None]}))", {"a": [1, None]}),
        ("open('/tmp/a.txt', 'w').write('x'); return [os.listdir('/tmp').count('a.txt'), os.remove('/tmp/a.txt')]", [1, None]),
        ("return zipfile.ZipFile(packed()).read('a.txt').decode()", "packed"),
        ("with tempfile.NamedTemporaryFile('w+') as file: file.write('x'); file.seek(0); return file.read()", "x"),
        ("return [*re.findall(r'#(\\w+)', 'a #bug and #help')]", ["bug", "help"]),
        ("return dataclasses.asdict(Order(1))", {"id": 1, "tags": []}),
    ],
)  # fmt: skip
async def test_concurrent_code_and_standard_modules(bench: Bench, body: str, value: JSON) -> None:
    """A step waits for tasks, threads and programs, and parses and writes the usual formats."""
    outcome = await bench.run(
        "python",
        f"""import asyncio, base64, csv, dataclasses, hmac, io, json, os, re, subprocess, tempfile, zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import parse_qs
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

@dataclasses.dataclass
class Order:
    id: int
    tags: list = dataclasses.field(default_factory=list)

async def wait():
    async def each(name):
        await asyncio.sleep(0.001)
        return name
    return await asyncio.gather(each("a"), each("b"))

def packed():
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        archive.writestr("a.txt", "packed")
    return made

def handler(pd: "pipedream"):
    {body}
""",
    )

    assert outcome.error is None
    assert outcome.exports == {"$return_value": value}


async def test_handler_returns_exports_and_reads_steps(bench: Bench) -> None:
    """The return value of `handler(pd)` is `$return_value`, and `pd.export` adds named exports."""
    outcome = await bench.run(
        "python",
        'def handler(pd):\n    pd.export("twice", pd.steps["trigger"]["event"]["n"] * 2)\n    return {"id": pd.context["id"]}\n',
    )

    assert outcome.error is None
    assert outcome.exports == {"twice": 14, "$return_value": {"id": "ctx1"}}
    assert list(outcome.exports.items()) == [("twice", 14), ("$return_value", {"id": "ctx1"})]


HELPERS_LINE = 'export("n", steps["trigger"]["event"]["n"] + 1)\n'


@pytest.mark.parametrize(
    ("source", "exports"),
    [
        ("\ufeffdef handler(pd):\n    return 1\n", {"$return_value": 1}),
        ("import asyncio\nasync def handler(pd):\n    await asyncio.sleep(0)\n    return 5\n", {"$return_value": 5}),
        ("def handler(pd):\n    pass\n", {}),
        ('def handler(pd):\n    a = [1]\n    pd.export("a", a)\n    a.append(2)\n', {"a": [1]}),
        (
            (
                "from __future__ import annotations\nfrom dataclasses import dataclass, asdict\nimport pickle\n"
                "@dataclass\nclass P:\n    x: int\ndef handler(pd):\n    return asdict(pickle.loads(pickle.dumps(P(1))))\n"
            ),
            {"$return_value": {"x": 1}},
        ),
        (f"from pipedream.script_helpers import (steps, export)\n{HELPERS_LINE}", {"n": 8}),
        ('import pipedream.script_helpers as h\nh.export("n", h.steps["trigger"]["event"]["n"] + 1)\n', {"n": 8}),
        ('from pipedream import script_helpers as h\nh.export("n", h.steps["trigger"]["event"]["n"] + 1)\n', {"n": 8}),
    ],
    ids=[
        "a byte order mark, as an editor saves it",
        "a coroutine",
        "None is not exported",
        "an export is copied at once",
        "dataclasses and pickle look up the module",
        "script helpers need no handler",
        "script helpers by another name",
        "script helpers of the package",
    ],
)
async def test_exports_of_a_step(bench: Bench, source: str, exports: dict[str, JSON]) -> None:
    """Code runs in each of the forms that Pipedream supports."""
    outcome = await bench.run("python", source)

    assert (outcome.error, outcome.exports) == (None, exports)


async def test_print_escapes_a_lone_surrogate(bench: Bench) -> None:
    """A step may print half of an emoji, which UTF-8 cannot encode."""
    outcome = await bench.run("python", "def handler(pd):\n    print('half \\ud83d')\n")

    assert outcome.error is None
    assert bench.printed() == "half \\ud83d\n"


async def test_inputs_have_props_and_apps(bench: Bench) -> None:
    """`pd.inputs` has values of props and `$auth` of apps."""
    outcome = await bench.run(
        "python",
        'def handler(pd):\n    return [pd.inputs["channel"], pd.inputs["slack"]["$auth"]["oauth_access_token"]]\n',
        props={"channel": "#general"},
        credentials={"slack": {"oauth_access_token": "xoxb-1"}},
    )

    assert outcome.exports["$return_value"] == ["#general", "xoxb-1"]


async def test_error_has_the_line_of_the_cell_and_locals(bench: Bench) -> None:
    """The line is that of the cell, and the stack has source and locals of the frames of the user's code only."""
    source = "import json\ndef handler(pd):\n    total = 3\n    return helper(total)\ndef helper(n):\n    return json.loads('{' * n)\n"

    outcome = await bench.run("python", source, line_offset=4)

    error = outcome.error
    assert error is not None
    assert (error.code, error.name, error.line) == ("step_failed", "JSONDecodeError", 10)
    assert error.stack is not None
    assert 'File "<step work>", line 8, in handler' in error.stack
    assert "return helper(total)" in error.stack
    assert "total = 3" in error.stack
    assert "decoder.py" not in error.stack
    assert "runtimes" not in error.stack


async def test_secret_in_a_local_is_replaced(bench: Bench) -> None:
    """A credential in a long local is replaced before the local is shortened; the value of an environment variable is replaced, too."""
    source = (
        "import os\ndef handler(pd):\n    token = os.environ['TOKEN']\n"
        '    text = "x" * 185 + pd.inputs["slack"]["$auth"]["token"]\n    return 1 / 0\n'
    )

    error = await bench.fail("python", source, credentials={"slack": {"token": "secret-secret-secret-secret"}})

    assert "secret-" not in str(error.stack)
    assert "tok-123456" not in str(error.stack)
    assert "text = 'xxx" in str(error.stack)
    assert "token = '***'" in str(error.stack)


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("secret-of-ada", "['x' * 190 + token + 'y' * 30_000]"),
        ("secret-of-ada", "'x' * 190 + token[:-1] + 'y' * 99"),
        ("secret-" + "abcdefghi" * 1000, "token * 3"),
        ("secret-" + "abcdefghi" * 1000, "(token * 3).encode()"),
    ],
    ids=["in a list", "a part of it", "a long secret", "bytes"],
)
async def test_shortened_local_ends_before_a_part_of_a_secret(bench: Bench, token: str, value: str) -> None:
    """If a long local is shortened inside a secret, the part of the secret before the end is removed."""
    source = (
        f'def handler(pd):\n    token = pd.inputs["slack"]["$auth"]["token"]\n    text = {value}\n    return 1 / 0\n'
    )

    error = await bench.fail("python", source, credentials={"slack": {"token": token}})

    assert "text = " in str(error.stack)
    assert "…\n" in str(error.stack)
    assert "secr" not in str(error.stack)


async def test_error_of_moved_code_has_its_new_line(bench: Bench) -> None:
    """Unchanged code that moves in its notebook or has another name is reported at its new place."""
    source = "def handler(pd):\n    return 1 / 0\n"

    errors = [
        (await bench.run("python", source, line_offset=offset, name=name)).error
        for offset, name in ((0, "one"), (3, "one"), (0, "two"), (3, "one"))
    ]

    assert [(error.line, (error.stack or "").splitlines()[:2]) for error in errors if error is not None] == [
        (line, [f'  File "<step {name}>", line {line}, in handler', "    return 1 / 0"])
        for line, name in ((2, "one"), (5, "one"), (2, "two"), (5, "one"))
    ]


@pytest.mark.parametrize(
    ("source", "expected", "text"),
    [
        (
            "class Odd:\n    def __repr__(self):\n        raise KeyError\ndef handler(pd):\n    odd = Odd()\n    return 1 / 0\n",
            {"name": "ZeroDivisionError"},
            "odd = <Odd instance at",
        ),
        ("def handler(pd):\n    return (1 +\n", {"name": "SyntaxError", "line": 4}, "^"),
        ("def handler(pd):\n    return df.head()\n", {"message": "name 'df' is not defined"}, "plain cells"),
        (
            "import no_such_pkg.sub\ndef handler(pd):\n    pass\n",
            {"name": "ModuleNotFoundError", "line": 3},
            "# pipedream add-package no_such_pkg",
        ),
        ("x = 1\n", {"code": "entry_point"}, "def handler(pd"),
        ("handler = 3\n", {"code": "entry_point"}, "def handler(pd"),
        ("", {"code": "entry_point"}, "def handler(pd"),
        ('def handler(pd):\n    return pd.steps["nope"]\n', {"fix": "Known: trigger."}, "nope"),
        ("import sys\ndef handler(pd):\n    sys.exit(3)\n", {"code": "step_died", "line": 5}, "exit status 3"),
    ],
    ids=[
        "a local whose repr fails",
        "line of invalid syntax",
        "a name of a plain cell",
        "a missing package",
        "no handler",
        "a handler that is not a function",
        "no code",
        "an unknown step",
        "sys.exit",
    ],
)
async def test_error_of_a_step(bench: Bench, source: str, expected: dict[str, object], text: str) -> None:
    """An error has its line in the cell, and a text that helps."""
    error = await bench.fail("python", source, line_offset=2)

    assert {key: getattr(error, key) for key in expected} == expected
    assert text in f"{error}{error.stack}"


async def test_steps_behaves_like_a_dict(bench: Bench) -> None:
    """Lazy values are available to json, dict, copy, ** and ==."""
    source = (
        "import json, copy, pickle\n"
        "def handler(pd):\n"
        "    whole = {'trigger': {'event': {'n': 7, 'name': 'Ada'}, 'context': {'id': 'ctx1'}}}\n"
        "    fresh = lambda: type(pd.steps)(texts)\n"
        "    texts = {'trigger': json.dumps(whole['trigger']).encode()}\n"
        "    return [json.loads(json.dumps(fresh())) == whole, dict(fresh()) == whole, {**fresh()} == whole,\n"
        "            fresh() == whole, copy.deepcopy(fresh()) == whole, list(fresh().values())[0] == whole['trigger'],\n"
        "            fresh().get('trigger') == whole['trigger'], fresh().get('no', 4) == 4, repr(fresh()) == repr(whole),\n"
        "            pickle.loads(pickle.dumps(fresh())) == whole, fresh().pop('trigger') == whole['trigger'],\n"
        "            fresh().copy() == whole, (fresh() | {}) == whole, fresh().setdefault('trigger', 1) == whole['trigger']]\n"
    )

    outcome = await bench.run("python", source)

    assert outcome.error is None
    assert outcome.exports["$return_value"] == [True] * 14


async def test_flow_exit_with_and_without_return(bench: Bench) -> None:
    """`pd.flow.exit` ends the run; without return the rest of the step still runs."""
    returned = await bench.run(
        "python", 'def handler(pd):\n    return pd.flow.exit("enough")\n    pd.export("late", 1)\n'
    )
    bare = await bench.run("python", 'def handler(pd):\n    pd.flow.exit()\n    pd.export("late", 1)\n')

    assert (returned.has_exited, returned.exit_reason, returned.exports) == (True, "enough", {})
    assert (bare.has_exited, bare.exit_reason, bare.exports) == (True, None, {"late": 1})


async def test_first_response_wins(bench: Bench) -> None:
    """The first response is sent at once; a second response is a warning."""
    sent: list[dict[str, Any]] = []

    outcome = await bench.run(
        "python",
        'def handler(pd):\n    pd.respond({"status": 201, "headers": {"x-a": 1, "x-b": True, "x-c": [False, 2]}, "body": {"ok": True}})\n    pd.respond({"status": 500})\n',
        recorder=StepRecorder(on_respond=sent.append),
    )

    headers = {"x-a": "1", "x-b": "true", "x-c": ["false", "2"]}
    assert outcome.response == {"status": 201, "headers": headers, "body": {"ok": True}}
    assert sent == [outcome.response]
    assert "more than once" in outcome.warnings[0]


@pytest.mark.parametrize(
    ("changes", "look", "found"),
    [
        (
            (
                "os.environ['LEAK'] = '1'; del os.environ['TOKEN']; os.chdir('/'); builtins.leak = 1; builtins.len = None;"
                "sys.stdout = io.StringIO(); sys.path.append('/nowhere'); sys.leak = 1; globals()['leak2'] = 1"
            ),
            (
                "[os.environ.get('LEAK'), os.environ.get('TOKEN'), os.getcwd() == os.environ['TMPDIR'], hasattr(builtins, 'leak'),"
                " callable(len), '/nowhere' in sys.path, hasattr(sys, 'leak'), 'leak2' in globals(), 'step_first' in sys.modules]"
            ),
            [None, "tok-123456", True, False, True, False, False, False, False],
        ),
        (
            "os.environ['TZ'] = 'EST5EDT'; time.tzset(); assert time.localtime(0).tm_hour == 19",
            "[time.tzname[0], datetime.fromtimestamp(0).hour]",
            ["UTC", 0],
        ),
        (
            "os.environ = {'LEAK': '1'}",
            "[os.environ.get('LEAK'), os.environ['TOKEN'], os.environ.update(NEW='x'), subprocess.getoutput('printenv NEW')]",
            [None, "tok-123456", None, "x"],
        ),
        ("signal.setitimer(signal.ITIMER_REAL, 0.5)", "time.sleep(0.6)", None),
        ("pd.steps['trigger']['event']['n'] = 0", "pd.steps['trigger']['event']['n']", 7),
    ],
    ids=["process", "time zone", "a replaced os.environ", "a timer", "steps"],
)
async def test_step_does_not_affect_the_next_step(bench: Bench, changes: str, look: str, found: JSON) -> None:
    """Changes of a step to its process and to `steps` do not reach the next step."""
    imports = "import builtins, io, os, signal, subprocess, sys, time\nfrom datetime import datetime\n"

    first = await bench.run("python", f"{imports}def handler(pd):\n    {changes}\n", name="first")
    outcome = await bench.run(
        "python", f"{imports}def handler(pd):\n    print('listener')\n    return {look}\n", name="second"
    )

    assert (first.error, outcome.error) == (None, None)
    assert outcome.exports.get("$return_value") == found
    assert bench.printed() == "listener\n"


async def test_settings_of_standard_modules_do_not_reach_the_next_step(bench: Bench) -> None:
    """Arguments, temporary folder, root logger and signal handlers are those of a new process again."""
    dirty = (
        "import logging, signal, sys, tempfile\n"
        "def handler(pd):\n"
        "    sys.argv.append('x'); tempfile.tempdir = '/'; logging.basicConfig(level=10, stream=sys.stdout)\n"
        "    for name in ('INT', 'TERM', 'ALRM', 'CHLD', 'USR1', 'USR2'):\n"
        "        signal.signal(signal.Signals['SIG' + name], lambda *_: None)\n"
    )
    look = (
        "import logging, signal, sys, tempfile, os\n"
        "def handler(pd):\n"
        "    names = ('INT', 'TERM', 'ALRM', 'CHLD', 'USR1', 'USR2')\n"
        "    return [sys.argv, tempfile.gettempdir() == os.environ['TMPDIR'], logging.root.level, len(logging.root.handlers),\n"
        "            [str(signal.getsignal(signal.Signals['SIG' + name])) for name in names]]\n"
    )
    before = await bench.run("python", look, name="before")
    await bench.run("python", dirty, name="dirty")

    outcome = await bench.run("python", look, name="after")

    assert before.exports == outcome.exports
    value = outcome.exports["$return_value"]
    assert isinstance(value, list)
    assert value[:4] == [[""], True, 30, 0]
    assert "lambda" not in str(value[4])


async def test_log_handlers_do_not_accumulate(bench: Bench) -> None:
    """The same code prints the same output in its second run."""
    source = (
        "import logging, sys\nlog = logging.getLogger('mine')\ndef handler(pd):\n"
        "    log.addHandler(logging.StreamHandler(sys.stdout))\n    log.warning('hello')\n"
    )
    await bench.run("python", source, name="first")
    first = bench.printed()

    await bench.run("python", source, name="second")

    assert (first, bench.printed()) == ("hello\n", "hello\n")


async def test_script_helpers_belong_to_their_step(bench: Bench) -> None:
    """A later step sees later exports; a step without the import does not find the module."""
    old = "import pipedream.script_helpers as old\ndef handler(pd):\n    return sorted(old.steps)\n"
    await bench.run("python", old, name="one")
    second = await bench.run("python", old, name="two")
    third = await bench.run(
        "python", 'import sys\ndef handler(pd):\n    return "pipedream.script" + "_helpers" in sys.modules\n'
    )

    assert second.exports["$return_value"] == ["one", "trigger"]
    assert third.exports["$return_value"] is False


FILES = {
    "helper.py": "import pkg.mod\ncalls = []\ndef count():\n    calls.append(1)\n    return len(calls)\n",
    "pkg/mod.py": "NAME = 'mod'\n",
    "../lib/shared.py": "from . import names\ndef join():\n    return names.WORDS\n",
    "../lib/names.py": "WORDS = ['lib']\n",
    "data/table.json": "[1]",
}
IMPORTS = """
import json, sys
from pathlib import Path
import helper, pkg.mod
from ..lib.shared import join

def handler(pd):
    sys.path.append(str(Path(__file__).parent.parent / "lib"))
    import names
    table = json.loads((Path(__file__).parent / "data" / "table.json").read_text())
    return [helper.count(), helper.pkg.mod.NAME, join(), names.WORDS, table]
"""


async def test_files_of_a_step_are_fresh_in_each_run_of_the_step(bench: Bench) -> None:
    """Modules beside the entry file and above are imported. Their state ends with the step; a changed text is used at once."""
    step = Step("work", "python", IMPORTS, files=FILES)
    changed = replace(step, files={**FILES, "pkg/mod.py": "NAME = 'new'\n"})

    outcomes = [await bench.run("python", "", step=each) for each in (step, step, changed)]
    left = await bench.run(
        "python", "import sys\ndef handler(pd):\n    return [name for name in sys.modules if 'helper' == name]\n"
    )

    assert [outcome.error for outcome in outcomes] == [None, None, None]
    assert [outcome.exports["$return_value"] for outcome in outcomes] == [
        [1, name, ["lib"], ["lib"], [1]] for name in ("mod", "mod", "new")
    ]
    assert left.exports["$return_value"] == []


async def test_steps_have_files_of_their_own(open_run: OpenRun) -> None:
    """Two steps import different files of one name, in one worker, which serves the next run, too."""
    source = "import helper, os\ndef handler(pd):\n    return [helper.NAME, os.getpid()]\n"
    found: list[Any] = []
    for _ in range(2):
        bench = await open_run()
        for name in ("one", "two"):
            step = Step(name, "python", source, files={"helper.py": f"NAME = '{name}'\n"})
            found.append((await bench.run("python", "", step=step)).exports["$return_value"])
        await bench.workers.release()

    assert [name for name, _ in found] == ["one", "two", "one", "two"]
    assert len({pid for _, pid in found}) == 1


async def test_file_named_like_a_standard_module(bench: Bench) -> None:
    """A file of a step does not replace a module of the standard library that the worker uses."""
    step = Step(
        "work",
        "python",
        "import json, helper\ndef handler(pd):\n    return [json.loads('[1]'), helper.json is json]\n",
        files={"json.py": "loads = None\n", "helper.py": "import json\n"},
    )

    outcome = await bench.run("python", "", step=step)
    after = await bench.run("python", "import json\ndef handler(pd):\n    return json.loads('2')\n", name="after")

    assert (outcome.error, after.error) == (None, None)
    assert (outcome.exports["$return_value"], after.exports["$return_value"]) == ([[1], True], 2)


async def test_lines_of_changed_files_are_new(open_run: OpenRun) -> None:
    """The stack of the next run has the new text of a file, which has the path of the old one."""
    stacks = []
    for text in ("def f():\n    1 / 0  # old\n", "def f():\n    1 / 0  # new\n"):
        bench = await open_run()
        step = Step("work", "python", "from helper import f\ndef handler(pd):\n    f()\n", files={"helper.py": text})
        outcome = await bench.run("python", "", step=step)
        await bench.workers.release()
        assert outcome.error is not None
        stacks.append(outcome.error.stack or "")

    assert [("# old" in stack, "# new" in stack) for stack in stacks] == [(True, False), (False, True)]


async def test_file_shadows_a_module_and_bytecode_only_while_its_step_runs(open_run: OpenRun, tmp_path: Path) -> None:
    """A module that an earlier step imported from elsewhere is the same one after a step with a file of its name, and Python writes bytecode again."""
    bench = await open_run()
    folder = tmp_path / "project"
    (folder / "helper.py").write_text("calls = []\n")
    use = (
        f"import sys\nsys.path.append({str(folder)!r})\nimport helper\n"
        "def handler(pd):\n    helper.calls.append(1)\n    return [len(helper.calls), sys.dont_write_bytecode]\n"
    )
    own = "import sys, helper\ndef handler(pd):\n    return [helper.OWN, sys.dont_write_bytecode]\n"

    values = [
        await bench.value("python", use, name="one"),
        await bench.value("python", "", step=Step("own", "python", own, files={"helper.py": "OWN = 5\n"})),
        await bench.value("python", use, name="two"),
    ]

    assert values == [[1, False], [5, True], [2, False]]


async def test_error_in_a_file_of_a_step(bench: Bench) -> None:
    """The error has the line of the step, and its stack the file's line and text."""
    step = Step(
        "work",
        "python",
        "from helper import f\ndef handler(pd):\n    f()\n",
        files={"helper.py": "def f():\n    1 / 0\n"},
    )

    error = await bench.fail("python", "", step=step)

    assert (error.name, error.line) == ("ZeroDivisionError", 3)
    assert 'helper.py", line 2, in f\n    1 / 0' in (error.stack or "")


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="the steps use what is new in Python 3.12, and run with this Python"
)
@pytest.mark.parametrize(
    ("body", "name", "why"),
    [
        ("type Name = str", "SyntaxError", "Type parameters and `type` statements are syntax of Python 3.12."),
        ("def first[T](items: list[T]) -> T: return items[0]", "SyntaxError", "Type parameters"),
        ("class Box[T]: pass", "SyntaxError", "Type parameters"),
        ("d = {'a': 1}; print(f'{d['a']}')", "SyntaxError", "Python 3.12 accepts quotes"),
        ("print(f'{chr(10).join(['a'])}{\\n}')", "SyntaxError", "Python 3.12 accepts quotes, backslashes"),
        ("from itertools import batched", "ImportError", "`batched` of `itertools` is new in Python 3.12."),
        ("import math; math.sumprod([1], [2])", "AttributeError", "`sumprod` of `math` is new in Python 3.12."),
        ("from pathlib import Path; Path('.').walk()", "AttributeError", "`walk` of `pathlib` is new in Python 3.12."),
        ("import tempfile; tempfile.NamedTemporaryFile(delete_on_close=False)", "TypeError", "`delete_on_close` is new"),
        ("def f(: pass", "SyntaxError", None),
        ("x = (1", "SyntaxError", None),
        ("class Own: pass\nOwn().walk()", "AttributeError", None),
        ("from itertools import nothing", "ImportError", None),
        ("(lambda: 1)(other=2)", "TypeError", None),
    ],
)  # fmt: skip
async def test_newer_python_is_named_as_the_cause(bench: Bench, body: str, name: str, why: str | None) -> None:
    """An error that syntax or a function of Python 3.12 causes names the version of the platform and of the step; other errors name none."""
    error = await bench.fail("python", f"{body}\ndef handler(pd):\n    return 1\n")

    named = "Pipedream runs Python 3.12, and this step runs with the Python 3.11 of pdkernel."
    assert error.name == name
    assert why is None or why in error.fix
    assert (named in error.fix, "3.12" in error.fix) == (why is not None, why is not None)

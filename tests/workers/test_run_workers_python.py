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


async def test_source_may_begin_with_a_byte_order_mark(bench: Bench) -> None:
    """Code of a file that an editor saved with a byte order mark runs."""
    outcome = await bench.run("python", "\ufeffdef handler(pd):\n    return 1\n")

    assert (outcome.error, outcome.exports) == (None, {"$return_value": 1})


async def test_print_escapes_a_lone_surrogate(bench: Bench) -> None:
    """A step may print half of an emoji, which UTF-8 cannot encode."""
    outcome = await bench.run("python", "def handler(pd):\n    print('half \\ud83d')\n")

    assert outcome.error is None
    assert bench.printed() == "half \\ud83d\n"


async def test_coroutine_is_awaited(bench: Bench) -> None:
    """`async def handler(pd)` works."""
    outcome = await bench.run(
        "python", "import asyncio\nasync def handler(pd):\n    await asyncio.sleep(0)\n    return 5\n"
    )

    assert outcome.exports == {"$return_value": 5}


async def test_returning_none_exports_nothing(bench: Bench) -> None:
    """A step that returns nothing has no `$return_value`."""
    outcome = await bench.run("python", "def handler(pd):\n    pass\n")

    assert outcome.exports == {}


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


async def test_locals_have_no_part_of_a_known_secret(bench: Bench) -> None:
    """A secret in a long local is replaced before the local is shortened."""
    source = 'def handler(pd):\n    text = "x" * 185 + pd.inputs["slack"]["$auth"]["token"]\n    return 1 / 0\n'

    outcome = await bench.run("python", source, credentials={"slack": {"token": "secret-secret-secret-secret"}})

    assert outcome.error is not None
    assert "secret-" not in str(outcome.error.stack)
    assert "text = 'xxx" in str(outcome.error.stack)


async def test_locals_have_no_value_of_a_variable(bench: Bench) -> None:
    """The value of an environment variable of the project is replaced in locals, as a credential is."""
    source = "import os\n\ndef handler(pd):\n    token = os.environ['TOKEN']\n    raise ValueError('no')"

    outcome = await bench.run("python", source)

    assert outcome.error is not None
    assert "token = '***'" in str(outcome.error.stack)


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

    outcome = await bench.run("python", source, credentials={"slack": {"token": token}})

    assert outcome.error is not None
    assert "text = " in str(outcome.error.stack)
    assert "…\n" in str(outcome.error.stack)
    assert "secr" not in str(outcome.error.stack)


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


async def test_failing_repr_does_not_hide_the_error(bench: Bench) -> None:
    """The stack marks a local whose `repr` raises an exception."""
    source = "class Odd:\n    def __repr__(self):\n        raise KeyError\ndef handler(pd):\n    odd = Odd()\n    return 1 / 0\n"

    outcome = await bench.run("python", source)

    assert outcome.error is not None
    assert outcome.error.name == "ZeroDivisionError"
    assert "odd = <Odd instance at" in str(outcome.error.stack)


async def test_syntax_error_has_line_and_caret(bench: Bench) -> None:
    """A syntax error is reported at the line of the cell."""
    outcome = await bench.run("python", "def handler(pd):\n    return (1 +\n", line_offset=2)

    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.line) == ("SyntaxError", 4)
    assert "^" in str(outcome.error.stack)


async def test_name_error_mentions_plain_cells(bench: Bench) -> None:
    """The message for an undefined name reports that names of plain cells are not visible."""
    outcome = await bench.run("python", "def handler(pd):\n    return df.head()\n")

    assert outcome.error is not None
    assert "'df' is not defined" in outcome.error.message
    assert "plain cells" in outcome.error.fix


async def test_missing_package_is_named_with_a_fix(bench: Bench) -> None:
    """ModuleNotFoundError names the package and the command."""
    outcome = await bench.run("python", "import no_such_pkg.sub\ndef handler(pd):\n    pass\n")

    assert outcome.error is not None
    assert outcome.error.name == "ModuleNotFoundError"
    assert outcome.error.line == 1
    assert "# pipedream add-package no_such_pkg" in outcome.error.fix


@pytest.mark.parametrize("source", ["x = 1\n", "handler = 3\n", ""])
async def test_missing_handler_is_an_entry_point_error(bench: Bench, source: str) -> None:
    """The error of a cell without `handler` has an example."""
    outcome = await bench.run("python", source)

    assert outcome.error is not None
    assert outcome.error.code == "entry_point"
    assert "def handler(pd" in outcome.error.message


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (
            '{"items": [1, 2, {"when": __import__("datetime").datetime(2026, 1, 1)}]}',
            "$return_value.items[2].when is a datetime",
        ),
        ('{"n": float("nan")}', "$return_value.n is nan"),
        ('[float("inf")]', "$return_value[0] is inf"),
        ("{1.5: 2}", "$return_value has the key 1.5, a float"),
        ('{"odd key": {3}}', '$return_value["odd key"] is a set'),
        ("b'x'", "$return_value is a bytes"),
        ("(lambda a: (a.append(a), a)[1])([])", "$return_value[0] contains itself"),
        ("__import__('functools').reduce(lambda a, _: [a], range(5000), 1)", "nested more than 256 deep"),
    ],
)
async def test_error_of_a_value_that_is_not_json_has_its_path(bench: Bench, expression: str, message: str) -> None:
    """The path inside the value is in the message, and earlier exports are kept."""
    outcome = await bench.run("python", f'def handler(pd):\n    pd.export("kept", 1)\n    return {expression}\n')

    assert outcome.error is not None
    assert outcome.error.code == "export_not_json"
    assert message in outcome.error.message
    assert outcome.exports == {"kept": 1}


async def test_exports_are_copied_immediately(bench: Bench) -> None:
    """A change of a value after its export does not change the export."""
    outcome = await bench.run("python", 'def handler(pd):\n    a = [1]\n    pd.export("a", a)\n    a.append(2)\n')

    assert outcome.exports == {"a": [1]}


async def test_step_cannot_change_the_steps_of_the_next_step(bench: Bench) -> None:
    """Each step has its own copy of `steps`."""
    await bench.run("python", 'def handler(pd):\n    pd.steps["trigger"]["event"]["n"] = 0\n', name="first")

    outcome = await bench.run(
        "python", 'def handler(pd):\n    return pd.steps["trigger"]["event"]["n"]\n', name="second"
    )

    assert outcome.exports["$return_value"] == 7


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


async def test_error_of_an_unknown_step_lists_the_steps(bench: Bench) -> None:
    """KeyError lists the steps."""
    outcome = await bench.run("python", 'def handler(pd):\n    return pd.steps["nope"]\n')

    assert outcome.error is not None
    assert outcome.error.fix == "Known: trigger."


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


async def test_sys_exit_is_an_error_with_its_status(bench: Bench) -> None:
    """The error of `sys.exit(3)` has its status and line."""
    outcome = await bench.run("python", 'import sys\ndef handler(pd):\n    pd.export("kept", 1)\n    sys.exit(3)\n')

    assert outcome.error is not None
    assert outcome.error.code == "step_died"
    assert "exit status 3" in outcome.error.message
    assert outcome.error.line == 4
    assert outcome.exports == {"kept": 1}


async def test_step_does_not_affect_the_next_step(bench: Bench) -> None:
    """Changes of a step to environment, working folder, builtins, stdout and modules do not reach the next step."""
    dirty = (
        "import os, sys, builtins, io\n"
        "def handler(pd):\n"
        "    os.environ['LEAK'] = '1'; del os.environ['TOKEN']; os.chdir('/'); builtins.leak = 1; builtins.len = None\n"
        "    sys.stdout = io.StringIO(); sys.path.append('/nowhere'); sys.leak = 1; globals()['leak2'] = 1\n"
    )
    look = (
        "import os, sys, builtins\n"
        "def handler(pd):\n"
        "    print('listener')\n"
        "    return [os.environ.get('LEAK'), os.environ.get('TOKEN'), os.getcwd() == os.environ['TMPDIR'], hasattr(builtins, 'leak'),\n"
        "            callable(len), '/nowhere' in sys.path, hasattr(sys, 'leak'), 'leak2' in globals(), 'step_first' in sys.modules]\n"
    )
    await bench.run("python", dirty, name="first")

    outcome = await bench.run("python", look, name="second")

    assert outcome.exports["$return_value"] == [None, "tok-123456", True, False, True, False, False, False, False]
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


async def test_time_zone_of_a_step_does_not_reach_the_next_step(bench: Bench) -> None:
    """A step that changes the time zone of its process leaves the next step in UTC."""
    dirty = "import os, time\ndef handler(pd):\n    os.environ['TZ'] = 'EST5EDT'\n    time.tzset()\n    return time.localtime(0).tm_hour\n"
    look = "import time\nfrom datetime import datetime\ndef handler(pd):\n    return [time.tzname[0], datetime.fromtimestamp(0).hour]\n"

    first = await bench.run("python", dirty, name="first")
    second = await bench.run("python", look, name="second")

    assert (first.exports["$return_value"], second.exports["$return_value"]) == (19, ["UTC", 0])


async def test_replaced_os_environ_is_restored_for_the_next_step(bench: Bench) -> None:
    """`os.environ` is the environment of the process again, as programs that a step starts see it."""
    await bench.run("python", "import os\ndef handler(pd):\n    os.environ = {'LEAK': '1'}\n", name="first")

    outcome = await bench.run(
        "python",
        "import os, subprocess\n"
        "def handler(pd):\n"
        "    os.environ['NEW'] = 'x'\n"
        "    return [os.environ.get('LEAK'), os.environ['TOKEN'], subprocess.check_output(['printenv', 'NEW'], text=True)]\n",
        name="second",
    )

    assert outcome.exports == {"$return_value": [None, "tok-123456", "x\n"]}


async def test_dataclasses_and_pickle_find_the_module_of_the_step(bench: Bench) -> None:
    """Code that looks up `sys.modules[__name__]` works in a step."""
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass, asdict\nimport pickle\n"
        "@dataclass\nclass P:\n    x: int\ndef handler(pd):\n    return asdict(pickle.loads(pickle.dumps(P(1))))\n"
    )

    outcome = await bench.run("python", source)

    assert outcome.exports == {"$return_value": {"x": 1}}


async def test_alarm_does_not_reach_the_next_step(bench: Bench) -> None:
    """Timers and signal handlers end with their step."""
    await bench.run("python", "import signal\ndef handler(pd):\n    signal.alarm(1)\n", name="first")

    outcome = await bench.run("python", "import time\ndef handler(pd):\n    time.sleep(1.1)\n", name="second")

    assert outcome.error is None


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


async def test_script_helpers_need_no_handler(bench: Bench) -> None:
    """`from pipedream.script_helpers import steps, export` works without `handler`, as in steps that are older than `pd`."""
    source = 'from pipedream.script_helpers import (steps, export)\nexport("n", steps["trigger"]["event"]["n"] + 1)\n'

    outcome = await bench.run("python", source)

    assert outcome.error is None
    assert outcome.exports == {"n": 8}


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


async def test_module_that_a_file_has_shadowed_is_back(open_run: OpenRun, tmp_path: Path) -> None:
    """A module that an earlier step imported from elsewhere is the same one after a step with a file of its name."""
    bench = await open_run()
    folder = tmp_path / "project"
    (folder / "helper.py").write_text("calls = []\n")
    use = f"import sys\nsys.path.append({str(folder)!r})\nimport helper\ndef handler(pd):\n    helper.calls.append(1)\n    return len(helper.calls)\n"
    own = Step(
        "own", "python", "import helper\ndef handler(pd):\n    return helper.OWN\n", files={"helper.py": "OWN = 5\n"}
    )

    outcomes = [
        await bench.run("python", use, name="one"),
        await bench.run("python", "", step=own),
        await bench.run("python", use, name="two"),
    ]

    assert [outcome.exports.get("$return_value") for outcome in outcomes] == [1, 5, 2]


async def test_bytecode_is_written_again_after_a_step_with_files(bench: Bench) -> None:
    """Only while a step with files runs, Python writes no bytecode."""
    setting = "import sys\ndef handler(pd):\n    return sys.dont_write_bytecode\n"
    own = Step("own", "python", f"import helper\n{setting}", files={"helper.py": ""})

    outcomes = [
        await bench.run("python", setting, name="one"),
        await bench.run("python", "", step=own),
        await bench.run("python", setting, name="two"),
    ]

    assert [outcome.exports.get("$return_value") for outcome in outcomes] == [False, True, False]


async def test_error_in_a_file_of_a_step(bench: Bench) -> None:
    """The error has the line of the step, and its stack the file's line and text."""
    step = Step(
        "work",
        "python",
        "from helper import f\ndef handler(pd):\n    f()\n",
        files={"helper.py": "def f():\n    1 / 0\n"},
    )

    outcome = await bench.run("python", "", step=step)

    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.line) == ("ZeroDivisionError", 3)
    assert 'helper.py", line 2, in f\n    1 / 0' in (outcome.error.stack or "")


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
        (
            "import tempfile; tempfile.NamedTemporaryFile(delete_on_close=False)",
            "TypeError",
            "`delete_on_close` is new",
        ),
    ],
)
async def test_newer_python_is_named_as_the_cause(bench: Bench, body: str, name: str, why: str) -> None:
    """An error that syntax or a function of Python 3.12 causes names the version of the platform and of the step."""
    outcome = await bench.run("python", f"{body}\ndef handler(pd):\n    return 1\n")

    assert outcome.error is not None
    assert outcome.error.name == name
    assert why in outcome.error.fix
    assert "Pipedream runs Python 3.12, and this step runs with the Python 3.11 of pdkernel." in outcome.error.fix


@pytest.mark.parametrize(
    "body",
    [
        "def f(: pass",
        "x = (1",
        "class Own: pass\nOwn().walk()",
        "from itertools import nothing",
        "(lambda: 1)(other=2)",
    ],
)
async def test_other_errors_do_not_name_a_version(bench: Bench, body: str) -> None:
    """An error that each Python raises does not name a version."""
    outcome = await bench.run("python", f"{body}\ndef handler(pd):\n    return 1\n")

    assert outcome.error is not None
    assert "3.12" not in outcome.error.fix


@pytest.mark.parametrize("form", ["import pipedream.script_helpers as h", "from pipedream import script_helpers as h"])
async def test_script_helpers_by_another_name(bench: Bench, form: str) -> None:
    """The old helper module has its functions under any name, and the step needs no handler."""
    source = f'{form}\nh.export("n", h.steps["trigger"]["event"]["n"] + 1)\n'

    outcome = await bench.run("python", source)

    assert (outcome.error, outcome.exports) == (None, {"n": 8})

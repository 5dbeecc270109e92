"""Descriptions of exceptions of a Python step."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.runtimes.python.error_report import PLAIN_CELLS_HINT, describe_error

FILE = "<step build>"
SECRET = "a-planted-secret-value"


def described(code: str, secrets: tuple[str, ...] = (), file: str = FILE, **names: Any) -> dict[str, Any]:
    """The description of the exception that *code* raises."""
    try:
        exec(compile(code, file, "exec"), names)  # the code of a cell
    except BaseException as error:
        trace = error.__traceback__
        error.__traceback__ = trace and trace.tb_next  # without the frame of this function
        return describe_error(error, FILE, secrets)
    raise AssertionError("no error")


def test_an_error_has_name_message_and_line() -> None:
    """The line is the innermost one of the cell; the stack has the local variables of the cell's frames."""
    found = described("def f(n):\n    text = 'x' * n\n    return {}[text]\n\n\nf(3)\n")

    assert (found["code"], found["name"], found["message"], found["line"]) == ("step_failed", "KeyError", "'xxx'", 3)
    assert found["stack"].splitlines() == [
        f'  File "{FILE}", line 6, in <module>',
        f'  File "{FILE}", line 3, in f',
        "      n = 3",
        "      text = 'xxx'",
        "KeyError: 'xxx'",
    ]
    assert found["fix"] == ""


def test_frames_of_libraries_are_left_out() -> None:
    """The line of an error in a library is that of the call in the cell."""
    found = described("import json\n\njson.loads('{')\n")

    assert (found["name"], found["line"]) == ("JSONDecodeError", 3)
    assert "decoder.py" not in found["stack"]


def test_a_syntax_error_has_its_own_line() -> None:
    """The message of a syntax error has no place in it; an error in another file has the line of the call."""
    found = described("a = 1\nb = = 2\n")
    other = described("\ncompile('x = =', 'other.py', 'exec')")

    assert (found["name"], found["message"], found["line"]) == ("SyntaxError", "invalid syntax", 2)
    assert other["line"] == 2


@pytest.mark.parametrize(
    ("code", "message", "fix"),
    [
        ("import no_such.part", "No module named 'no_such'", "# pipedream add-package no_such"),
        ("undefined_name", "name 'undefined_name' is not defined", PLAIN_CELLS_HINT),
        ("def f():\n    x += 1\nf()", "cannot access local variable 'x'", ""),
    ],
)
def test_a_fix_is_suggested(code: str, message: str, fix: str) -> None:
    """A missing package and a name of a plain cell have a fix; a local variable has none."""
    found = described(code)

    assert message in found["message"]
    assert found["fix"].endswith(fix)
    assert bool(found["fix"]) is bool(fix)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit", 0),
        ("raise SystemExit(3)", 3),
        ("raise SystemExit('why')", 1),
        ("raise SystemExit(None)", 0),
    ],
)
def test_an_exit_is_an_error(code: str, status: int) -> None:
    """A step that ends its process fails with its status, and with its message if it has one."""
    found = described(f"a = 1\n{code}\n")

    assert (found["code"], found["name"], found["line"]) == ("step_died", "SystemExit", 2)
    assert f"exit status {status}." in found["message"]
    assert ("why" in found["message"]) is ("why" in code)


def test_an_error_of_pdkernel_has_its_own_code() -> None:
    """Code, name and fix of such an error are reported, and its module is left out."""

    class RefusedError(Exception):
        pdkernel_code, pdkernel_name, pdkernel_fix = "refused", "Refusal", "Ask again."

    found = described("raise error", error=RefusedError("no"))

    assert (found["code"], found["name"], found["message"], found["fix"]) == ("refused", "Refusal", "no", "Ask again.")
    assert found["stack"].endswith("\nRefusedError: no")


def test_causes_are_shown_before_the_error() -> None:
    """A cause and an error that was being handled precede the error; `from None` hides the latter; three are shown at most."""
    raising = "try:\n    1 / 0\nexcept Exception as first:\n    raise ValueError('two'){}\n"
    chain = "e = ValueError('0')\nfor n in range(1, 5):\n    new = ValueError(str(n))\n    new.__cause__ = e\n    e = new\nraise e"

    stacks = [described(raising.format(ending))["stack"] for ending in (" from first", "", " from None")]

    assert "which was the cause of:" in stacks[0]
    assert "which was being handled at the time of:" in stacks[1]
    assert "ZeroDivisionError" not in stacks[2]
    assert stacks[0].index("ZeroDivisionError") < stacks[0].index("ValueError: two")
    assert [f"ValueError: {n}" in described(chain)["stack"] for n in range(5)] == [False, False, True, True, True]


def test_secrets_are_hidden_in_local_variables() -> None:
    """A secret of four characters or more is replaced; a longer one first; a short one stays."""
    code = (
        f"def f():\n    a = {SECRET!r}\n    b = 'abcd-long'\n    c = 'abc'\n    d = 'abcd'\n    raise ValueError\nf()"
    )

    stack = described(code, (SECRET, "abcd", "abcd-long", "abc"))["stack"]

    assert "      a = '***'\n" in stack
    assert "      b = '***'\n" in stack
    assert "      c = 'abc'\n" in stack
    assert "      d = '***'\n" in stack


@pytest.mark.parametrize("before", range(175, 205, 3))
def test_no_part_of_a_secret_is_before_a_cut(before: int) -> None:
    """A local variable is cut after 200 characters, or before a secret that begins there."""
    text = "x" * before + SECRET
    stack = described(f"def f():\n    a = {text!r}\n    raise ValueError\nf()", (SECRET,))["stack"]

    line = next(line for line in stack.splitlines() if "a = " in line)
    assert (
        not any(SECRET[:length] in line for length in range(1, len(SECRET)) if SECRET[:length] != "a") or "***" in line
    )
    assert len(line) <= len("      a = ") + 201


def test_data_is_shown_and_code_is_not() -> None:
    """Modules, functions, classes and `pd` are not data; of many variables 20 are shown; a failing repr is named."""
    hidden = type("Hidden", (), {"pdkernel_hidden": True})()
    bad = type("Bad", (), {"__repr__": lambda self: 1 / 0})()
    code = "def f(pd, bad):\n    import json\n    g = lambda: 1\n    raise ValueError\nf(pd, bad)"
    many = "def f():\n" + "".join(f"    v{n} = {n}\n" for n in range(22)) + "    raise ValueError\nf()"

    shown = [line for line in described(code, pd=hidden, bad=bad)["stack"].splitlines() if " = " in line]

    assert [line.split(" = ")[0].strip() for line in shown] == ["bad", "bad"]
    assert "<Bad instance at" in shown[0]
    assert "      v19 = 19\n      ... and 2 more\n" in described(many)["stack"]


def test_frames_in_the_middle_are_counted() -> None:
    """Of a deep recursion the outer 5 and the inner 10 frames are shown."""
    stack = described("def f(n):\n    if n:\n        f(n - 1)\n    raise ValueError\nf(30)")["stack"]

    assert "  ... 17 more of your frames ..." in stack
    assert stack.count("  File ") == 15


def test_a_message_that_cannot_be_read() -> None:
    """An error whose text fails is reported all the same."""
    found = described("class E(Exception):\n    def __str__(self):\n        raise OSError\nraise E")

    assert (found["name"], found["message"]) == ("E", "(the message of the error cannot be read)")

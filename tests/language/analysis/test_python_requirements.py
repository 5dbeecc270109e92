"""The requirements of Python code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.language.analysis import find_python_requirements, find_unreadable_requirements


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, sys.path\nfrom json import loads\n", []),
        ("import yaml, requests.adapters\n", ["PyYAML for yaml", "requests for requests"]),
        ("def handler(pd):\n    from PIL import Image\n", ["Pillow for PIL"]),
        ("from google.cloud import storage\n", ["google-cloud-storage for google.cloud.storage"]),
        ("from google.oauth2 import service_account\n", ["google-auth for google.oauth2"]),
        ("import google\n", []),
        ("from . import beside\nfrom .beside import one\nfrom ..above.deep import two\n", []),
        ("if TYPE_CHECKING:\n    import numpy\n", []),
        ("if typing.TYPE_CHECKING:\n    import numpy\nelse:\n    import tiny\n", ["tiny for tiny"]),
        ("if checking:\n    import tiny\n", ["tiny for tiny"]),
        ("import distutils\n", []),
        ("from pipedream.script_helpers import (steps, export)\n", []),
        ("from pipedream import script_helpers\n", []),
        ("from pipedream import Pipedream\n", ["pipedream for pipedream"]),
        ("def broken(:\n# pipedream add-package tiny\n", ["tiny"]),
        ("# pipedream add-package requests==2.31.0\nimport requests\n", ["requests==2.31.0"]),
        ("# pipedream add-package pip install google-api\n", ["google-api"]),
        ("# pipedream add-package pip install --upgrade -q tiny\n", ["tiny"]),
        ("# pipedream add-package scikit-learn >= 1.2, <2\nimport sklearn\n", ["scikit-learn>=1.2,<2"]),
        ("# pipedream add-package 'tiny[extra]', more  # why\n", ["tiny[extra]", "more"]),
        ('TEXT = "# pipedream add-package tiny"\n', []),
    ],
)
def test_requirements_of_a_step(source: str, found: list[str]) -> None:
    """The distributions of imports outside the standard library, and the packages of comments."""
    assert [str(requirement) for requirement in find_python_requirements(source)] == found


def test_names_of_distributions_are_normalized() -> None:
    """Capitals, underscores and dots do not matter, so that a comment and an import of one distribution are one package."""
    (both,) = find_python_requirements("# pipedream add-package pyyaml==6.0.1\nimport yaml\n")
    (dotted,) = find_python_requirements("# pipedream add-package Ruamel_.YAML[jinja2]>=0.18\n")

    assert (both.name, both.version) == ("pyyaml", "==6.0.1")
    assert (dotted.name, dotted.version) == ("ruamel-yaml", ">=0.18")


def test_the_import_of_a_fallback_is_required() -> None:
    """Without the first module the code needs the module of the handler."""
    found = find_python_requirements(
        "try:\n    import fast\nexcept ImportError:\n    import slow\nelse:\n    import more\n"
    )

    assert {each.specifier: each.is_optional for each in found} == {"fast": True, "slow": False, "more": False}


def test_a_guarded_import_is_optional() -> None:
    """An import that catches ImportError is optional, unless the same import is elsewhere."""
    guarded = "try:\n    import ujson\nexcept ImportError:\n    import json\n"

    assert [each.is_optional for each in find_python_requirements(guarded)] == [True]
    assert [each.is_optional for each in find_python_requirements(f"{guarded}import ujson\n")] == [False]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "git+https://user:pa55word@host/x",
        "https://host/tiny.whl",
        "tiny @ https://user:pa55word@host/x",
        "tiny @ file:///tiny",
        "-r",
        "-r requirements.txt",
        "--requirement requirements.txt",
        "-e tiny",
        "-c constraints.txt tiny",
        "tiny==",
        "tiny==1.0==",
        "tiny==*",
        "tiny==../../x",
        "tiny[../x]",
        "tiny; python_version < '3'",
        "../folder",
        ".",
        "./tiny-1.0-py3-none-any.whl",
        "tiny-1.0-py3-none-any.whl",
        "tiny-1.0-py3-none-any.WHL",
        "tiny.whl==1.0",
        "tiny-1.0.tar.gz",
        "tiny-1.0.tar.zst",
        "tiny-1.0.zip",
        "tiny more.tgz",
        "${HOME}",
        "ti\x01ny",
        "tïny",
    ],
)
def test_unreadable_package_comments_are_reported(words: str) -> None:
    """Each unreadable comment has its line; a URL that may contain a password is not repeated."""
    source = f"import os\n# pipedream add-package {words}\n"

    assert find_python_requirements(source) == ()
    assert [each.line for each in find_unreadable_requirements(source)] == [2]
    assert "pa55word" not in find_unreadable_requirements(source)[0].words
    assert find_unreadable_requirements(source)[0].words.isprintable()


@given(st.text())
def test_any_comment_is_read_or_refused(words: str) -> None:
    """Any text after `add-package` can be parsed, and no option reaches pip."""
    for requirement in find_python_requirements(f"# pipedream add-package {words}"):
        assert requirement.specifier[0].isalnum()
        assert requirement.name

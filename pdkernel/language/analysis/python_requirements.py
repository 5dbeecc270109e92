"""
The requirements of Python code: packages that the code imports, and those of `# pipedream add-package` comments.

A table maps import names to distributions where they differ. Names are not checked against a registry or the installed packages.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from pdkernel.language.analysis.python_code import LEGACY_HELPER_MODULE, parse_source

DISTRIBUTION_BY_MODULE: Mapping[str, str] = {
    "Crypto": "pycryptodome",
    "Cryptodome": "pycryptodomex",
    "Levenshtein": "python-Levenshtein",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "airtable": "airtable-python-wrapper",
    "apiclient": "google-api-python-client",
    "attr": "attrs",
    "azure.ai.openai": "azure-ai-openai",
    "azure.core": "azure-core",
    "azure.cosmos": "azure-cosmos",
    "azure.data.tables": "azure-data-tables",
    "azure.identity": "azure-identity",
    "azure.keyvault.secrets": "azure-keyvault-secrets",
    "azure.servicebus": "azure-servicebus",
    "azure.storage.blob": "azure-storage-blob",
    "azure.storage.queue": "azure-storage-queue",
    "bs4": "beautifulsoup4",
    "bson": "pymongo",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "discord": "discord.py",
    "dns": "dnspython",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "github": "PyGithub",
    "gitlab": "python-gitlab",
    "google.ads": "google-ads",
    "google.ai.generativelanguage": "google-ai-generativelanguage",
    "google.api_core": "google-api-core",
    "google.auth": "google-auth",
    "google.genai": "google-genai",
    "google.generativeai": "google-generativeai",
    "google.oauth2": "google-auth",
    "google.protobuf": "protobuf",
    "googleapiclient": "google-api-python-client",
    "intercom": "python-intercom",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "magic": "python-magic",
    "mysql": "mysql-connector-python",
    "nacl": "PyNaCl",
    "paho": "paho-mqtt",
    "pkg_resources": "setuptools",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "pythonjsonlogger": "python-json-logger",
    "quickbooks": "python-quickbooks",
    "ruamel.yaml": "ruamel.yaml",
    "serial": "pyserial",
    "shopify": "ShopifyAPI",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slack": "slackclient",
    "snowflake.connector": "snowflake-connector-python",
    "socks": "PySocks",
    "telebot": "pyTelegramBotAPI",
    "telegram": "python-telegram-bot",
    "todoist": "todoist-python",
    "trello": "py-trello",
    "twitter": "python-twitter",
    "websocket": "websocket-client",
    "wordpress_xmlrpc": "python-wordpress-xmlrpc",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}
"""The distribution of each module or prefix of a module. The longest matching prefix counts."""

NAMESPACE_PACKAGES = frozenset({"azure", "google", "google.cloud", "ruamel", "snowflake", "zope"})
"""Namespace packages of several distributions; their name alone does not identify a distribution."""

REMOVED_STDLIB_MODULES = frozenset(
    [
        "aifc",
        "asynchat",
        "asyncore",
        "audioop",
        "binhex",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "distutils",
        "formatter",
        "imghdr",
        "imp",
        "lib2to3",
        "mailcap",
        "msilib",
        "nis",
        "nntplib",
        "ossaudiodev",
        "parser",
        "pipes",
        "smtpd",
        "sndhdr",
        "spwd",
        "sunau",
        "symbol",
        "telnetlib",
        "uu",
        "xdrlib",
    ]
)
"""Standard modules of earlier Python versions; distributions of the same names in the registry are unrelated."""


def resolve_distribution(module: str) -> tuple[str, str]:
    """
    Return the distribution for *module* (dotted), and the part of it that this distribution provides.

    `google.cloud.storage.blob` gives `("google-cloud-storage", "google.cloud.storage")`.
    """
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in DISTRIBUTION_BY_MODULE:
            return DISTRIBUTION_BY_MODULE[prefix], prefix
    depth = 1
    while depth < len(parts) and ".".join(parts[:depth]) in NAMESPACE_PACKAGES:
        depth += 1
    prefix = ".".join(parts[:depth])
    return prefix.replace(".", "-").replace("_", "-") if depth > 1 else prefix, prefix


_COMMENT = re.compile(r"^[ \t]*#[ \t]*pipedream[ \t]+add-package\b[ \t]*(.*)$", re.MULTILINE)
_IGNORED_WORDS = frozenset({"pip", "pip3", "install", "add", "python", "python3", "and"})
_TAKES_A_FILE = frozenset({"-r", "--requirement", "-c", "--constraint", "-e", "--editable"})
"""Options of pip that take a file or URL as their value."""

_FILE = re.compile(r"\.(?:whl|egg|zip|tar|tgz|tbz|txz|tlz|tar\.\w+)$", re.IGNORECASE)
"""Endings of names that pip treats as files if they exist."""
_OPERATOR_SPACES = re.compile(r"\s*(===|==|~=|!=|<=|>=|<|>|,(?=\s*[=~!<>]))\s*")
_SEPARATOR = re.compile(r"\s+|,(?![=~!<>])\s*")
_IMPORT_GUARD_ERRORS = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


@dataclass(frozen=True, slots=True, order=True)
class PythonRequirement:
    """
    A package to install.

    Attributes:
        specifier: The requirement: `PyYAML`, `requests[socks]==2.31.0`.
        module: The imported module; empty if a comment adds the package. If a package of a comment provides the module,
            the requirement of the import is not installed.
        is_optional: Whether the import is guarded, so that the code works without the package.
        line: The first line of the source that requires the package; ignored by comparisons.
    """

    specifier: str
    module: str = ""
    is_optional: bool = False
    line: int = field(default=1, compare=False)

    @property
    def name(self) -> str:
        """The normalized name of the distribution: lower case, `-` for `_` and `.`."""
        return normalize_name(re.split(r"[\[=~!<>]", self.specifier, maxsplit=1)[0])

    @property
    def version(self) -> str:
        """The version specifier as written (`==2.31.0`); empty for any version."""
        return self.specifier[re.match(r"[^=~!<>]*", self.specifier).end() :]  # type: ignore[union-attr]  # it always matches

    def __str__(self) -> str:
        return f"{self.specifier} for {self.module}" if self.module else self.specifier


@dataclass(frozen=True, slots=True)
class UnreadableRequirement:
    """Words after `# pipedream add-package` that do not name a package."""

    words: str
    line: int


def normalize_name(name: str) -> str:
    """Return the normalized *name* of a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=1000)
def find_python_requirements(source: str) -> tuple[PythonRequirement, ...]:
    """Return the requirements of *source*, those of comments first, each distribution once."""
    found: dict[str, PythonRequirement] = {}
    if "add-package" in source:
        for each in _find_comment_requirements(source):
            if isinstance(each, PythonRequirement):
                found.setdefault(each.name, each)
    if "import" in source:
        for requirement in _find_import_requirements(source):
            known = found.get(requirement.name)
            if known is None or (known.is_optional and not requirement.is_optional):
                found[requirement.name] = requirement
    return tuple(found.values())


def find_unreadable_requirements(source: str) -> tuple[UnreadableRequirement, ...]:
    """Return the `add-package` comments of *source* that do not name a package."""
    if "add-package" not in source:
        return ()
    return tuple(each for each in _find_comment_requirements(source) if isinstance(each, UnreadableRequirement))


def _find_comment_requirements(source: str) -> Iterator[PythonRequirement | UnreadableRequirement]:
    for match in _COMMENT.finditer(source):
        line = source.count("\n", 0, match.start()) + 1
        words = match[1].split("#")[0].replace('"', " ").replace("'", " ").strip()
        joined = _OPERATOR_SPACES.sub(r"\1", words)  # `requests == 2.31` is one requirement
        wanted = [
            word
            for word in _SEPARATOR.split(joined)
            if word and word.lower() not in _IGNORED_WORDS and not word.startswith("-")
        ]
        if not wanted or not all(map(_is_package, wanted)) or not _TAKES_A_FILE.isdisjoint(words.split()):
            yield UnreadableRequirement(_mask_urls(words), line)
            continue
        for word in wanted:
            yield PythonRequirement(word, line=line)


def _is_package(word: str) -> bool:
    """Return whether *word* is a package name with optional versions, which pip finds in a registry."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(word)
    except InvalidRequirement:
        return False
    is_name = requirement.url is None and requirement.marker is None and word[0].isalnum()
    return is_name and not _FILE.search(requirement.name)


def _mask_urls(words: str) -> str:
    shown = re.sub(r"://\S*", "://...", words)[:100]  # a URL may contain a password
    return "".join(character if character.isprintable() else "?" for character in shown)


def _find_import_requirements(source: str) -> Iterator[PythonRequirement]:
    for module, optional, line in _imports(source):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in REMOVED_STDLIB_MODULES or module in NAMESPACE_PACKAGES:
            continue
        if module == LEGACY_HELPER_MODULE or module.startswith(LEGACY_HELPER_MODULE + "."):
            continue
        distribution, provided = resolve_distribution(module)
        yield PythonRequirement(distribution, provided, optional, line)


def _imports(source: str) -> Iterator[tuple[str, bool, int]]:
    """Yield the dotted modules that *source* imports, whether each import is optional, and the line."""
    tree = parse_source(source)
    for node, optional in iter_import_nodes(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            yield from ((alias.name, optional, node.lineno) for alias in node.names)
        elif node.module is not None and node.level == 0:
            if node.module in NAMESPACE_PACKAGES or node.module == "pipedream":
                yield from ((f"{node.module}.{alias.name}", optional, node.lineno) for alias in node.names)
            else:
                yield node.module, optional, node.lineno


def iter_import_nodes(node: ast.AST, *, optional: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield the imports in *node* except for those for type checkers; each with whether the code works without the module."""
    match node:
        case ast.Import() | ast.ImportFrom():
            yield node, optional
        case ast.If(test=test) if _is_type_checking(test):
            for child in node.orelse:
                yield from iter_import_nodes(child, optional=optional)
        case ast.Try() if any(_is_import_guard(handler) for handler in node.handlers):
            for child in node.body:
                yield from iter_import_nodes(child, optional=True)
            rest: list[ast.AST] = [*node.handlers, *node.orelse, *node.finalbody]
            for other in rest:
                yield from iter_import_nodes(other, optional=optional)
        case _:
            for inside in ast.iter_child_nodes(node):
                yield from iter_import_nodes(inside, optional=optional)


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name | ast.Attribute) and "TYPE_CHECKING" in ast.dump(test)


def _is_import_guard(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return any(isinstance(node, ast.Name) and node.id in _IMPORT_GUARD_ERRORS for node in ast.walk(handler.type))

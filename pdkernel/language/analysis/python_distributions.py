"""
The distributions of modules with another name than their distribution.

The table has the most common modules (public facts of the packages). Any other module has a distribution of the same
name, unless a step names the distribution: `# pipedream add-package NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    The distribution for *module* (dotted), and the part of it that this distribution provides.

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

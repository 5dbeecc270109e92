"""The apps of the sweep, at the versions whose components were counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class App:
    """The package of an app: its version, and the numbers of actions and sources that plain Node.js can import."""

    version: str
    actions: int
    sources: int


APPS = {
    "apify": App("0.4.0", 7, 2),
    "aws": App("1.1.1", 22, 12),
    "brex": App("0.1.1", 5, 1),
    "canva": App("0.2.3", 4, 0),
    "clio": App("0.1.1", 3, 3),
    "docusign": App("0.2.2", 3, 2),
    "gitlab": App("0.5.6", 10, 10),
    "google_drive": App("1.4.1", 37, 16),
    "helper_functions": App("0.3.13", 15, 0),
    "launchdarkly": App("0.1.1", 10, 3),
    "linear_app": App("0.8.1", 7, 6),
    "linkedin": App("0.1.1", 17, 0),
    "microsoft_outlook": App("1.7.5", 16, 4),
    "monday": App("0.7.0", 10, 10),
    "mysql": App("2.5.0", 9, 5),
    "notiff_io": App("0.1.0", 1, 0),
    "notion": App("1.0.6", 25, 9),
    "pipedream": App("0.4.2", 4, 1),
    "postgresql": App("2.2.4", 7, 5),
    "procore": App("0.1.0", 5, 9),
    "quickbooks": App("0.8.0", 40, 10),
    "ramp": App("0.1.2", 3, 3),
    "sftp": App("0.5.1", 1, 1),
    "shopify": App("1.0.1", 57, 7),
    "slack": App("0.10.3", 34, 9),
    "youtube_data_api": App("1.0.1", 18, 9),
}

UNDECLARED = {"helper_functions": ("nodemailer@10.3.1",)}
"""Packages that an app imports and does not declare, and finds if all apps are installed together."""

FEW = ("gitlab", "helper_functions", "notion")
"""The apps that every test run tries."""

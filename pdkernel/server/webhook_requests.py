"""The signed requests that webhooks of the product receive: events of Connect Link, and of deployed triggers."""

from __future__ import annotations

import hashlib
import hmac

SIGNATURE_HEADER = "x-pd-signature"
TIMEOUT_S = 10.0
"""Time limit of a request to a webhook in seconds."""


def build_headers(key: str, at: int, body: bytes) -> dict[str, str]:
    """
    The headers of a request to a webhook.

    Args:
        key: The key that signs.
        at: When the request is sent, in seconds since 1970.
        body: The body, JSON.
    """
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"content-type": "application/json", SIGNATURE_HEADER: f"t={at},v1={digest}", "user-agent": "pdkernel"}

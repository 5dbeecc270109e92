"""
What a person comes to a link page for, as its URL and its form say it.

Knows the names that the platform's SDKs for browsers put into the URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

TOKEN_PARAM, APP_PARAM, ACCOUNT_PARAM, HIDE_CLOSE_PARAM, FRAMED_PARAM = (
    "token",
    "app",
    "accountId",
    "hideClose",
    "framed",
)


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """
    What a person comes for.

    Attributes:
        token_text: The Connect token's text.
        app: The app's slug, or the empty string.
        account_id: The id of the account that is connected anew, or None for another account.
        hides_close_button: Whether the page goes without its button that closes it: the product has one of its own.
        is_framed: Whether the page is in a frame of the product's page, as the page itself says when it sends its form.
    """

    token_text: str = field(repr=False)
    app: str
    account_id: str | None = None
    hides_close_button: bool = False
    is_framed: bool = False

    @classmethod
    def from_params(cls, given: Mapping[str, str]) -> Self:
        """The wish in a query or a form."""
        return cls(
            given.get(TOKEN_PARAM, ""),
            given.get(APP_PARAM, ""),
            given.get(ACCOUNT_PARAM) or None,
            given.get(HIDE_CLOSE_PARAM) == "true",
            given.get(FRAMED_PARAM) == "true",
        )

    def to_form_fields(self) -> dict[str, str]:
        """The same, for a form's hidden fields."""
        return {
            TOKEN_PARAM: self.token_text,
            APP_PARAM: self.app,
            **({ACCOUNT_PARAM: self.account_id} if self.account_id else {}),
            **({HIDE_CLOSE_PARAM: "true"} if self.hides_close_button else {}),
            FRAMED_PARAM: "true" if self.is_framed else "",
        }

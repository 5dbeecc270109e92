"""
What a person comes to a link page for, as its URL and its form say it.

Knows the names that the platform's SDKs for browsers put into the URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

TOKEN, APP, ACCOUNT, HIDE_CLOSE, FRAMED = "token", "app", "accountId", "hideClose", "framed"


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What a person comes for.

    Attributes:
        text: The Connect token's text.
        app: The app's slug, or the empty string.
        account: The id of the account that is connected anew, or None for another account.
        hide_close: Whether the page goes without its button that closes it: the product has one of its own.
        framed: Whether the page is in a frame of the product's page, as the page itself says when it sends its form.
    """

    text: str = field(repr=False)
    app: str
    account: str | None = None
    hide_close: bool = False
    framed: bool = False

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Self:
        """The wish in a query or a form."""
        return cls(
            given.get(TOKEN, ""),
            given.get(APP, ""),
            given.get(ACCOUNT) or None,
            given.get(HIDE_CLOSE) == "true",
            given.get(FRAMED) == "true",
        )

    def fields(self) -> dict[str, str]:
        """The same, for a form's hidden fields."""
        return {
            TOKEN: self.text,
            APP: self.app,
            **({ACCOUNT: self.account} if self.account else {}),
            **({HIDE_CLOSE: "true"} if self.hide_close else {}),
            FRAMED: "true" if self.framed else "",
        }

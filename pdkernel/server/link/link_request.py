"""Parameters of a Connect Link page, from its URL or its form, under the names of the platform's browser SDK."""

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
    A request for a Connect Link page.

    Attributes:
        token_text: Text of the Connect token.
        app: Slug of the app, or "".
        account_id: Id of the account to reconnect, or None for a new account.
        hides_close_button: Whether the page has no close button because the product has its own.
        is_framed: Whether the page is in a frame of the product's page; the page's script sets this form field.
    """

    token_text: str = field(repr=False)
    app: str
    account_id: str | None = None
    hides_close_button: bool = False
    is_framed: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> Self:
        """Parse the parameters of a query or a form."""
        return cls(
            params.get(TOKEN_PARAM, ""),
            params.get(APP_PARAM, ""),
            params.get(ACCOUNT_PARAM) or None,
            params.get(HIDE_CLOSE_PARAM) == "true",
            params.get(FRAMED_PARAM) == "true",
        )

    def to_form_fields(self) -> dict[str, str]:
        """The parameters as hidden fields of a form."""
        return {
            TOKEN_PARAM: self.token_text,
            APP_PARAM: self.app,
            **({ACCOUNT_PARAM: self.account_id} if self.account_id else {}),
            **({HIDE_CLOSE_PARAM: "true"} if self.hides_close_button else {}),
            FRAMED_PARAM: "true" if self.is_framed else "",
        }

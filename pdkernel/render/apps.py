"""Apps and their credentials as a person reads them: display names, and icons with an app's initials."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from pdkernel.render.markup import Html, tag

_NAMES: Mapping[str, str] = {
    "activecampaign": "ActiveCampaign",
    "airtable_oauth": "Airtable",
    "bigquery": "BigQuery",
    "clickup": "ClickUp",
    "docusign": "DocuSign",
    "elevenlabs": "ElevenLabs",
    "github": "GitHub",
    "gitlab": "GitLab",
    "hubspot": "HubSpot",
    "linear_app": "Linear",
    "linkedin": "LinkedIn",
    "microsoft_graph_api": "Microsoft Graph API",
    "microsoft_onedrive": "Microsoft OneDrive",
    "microsoft_sharepoint": "Microsoft SharePoint",
    "monday": "monday.com",
    "mongodb": "MongoDB",
    "mysql": "MySQL",
    "openai": "OpenAI",
    "paypal": "PayPal",
    "postgresql": "PostgreSQL",
    "quickbooks": "QuickBooks",
    "salesforce_rest_api": "Salesforce",
    "sendgrid": "SendGrid",
    "slack_v2": "Slack v2",
    "telegram_bot_api": "Telegram Bot",
    "whatsapp_business": "WhatsApp Business",
    "woocommerce": "WooCommerce",
    "wordpress_org": "WordPress.org",
    "xero_accounting_api": "Xero Accounting",
    "youtube_data_api": "YouTube Data API",
    "zoho_crm": "Zoho CRM",
}
"""Names of apps that the words of the slug do not give. Source: the apps' own pages."""
_CREDENTIAL_NAMES: Mapping[str, str] = {"oauth_access_token": "Access token"}
_CAPITALS: Final = frozenset(
    [
        "ai",
        "api",
        "aws",
        "crm",
        "erp",
        "ftp",
        "hr",
        "http",
        "id",
        "imap",
        "ip",
        "pem",
        "rss",
        "s3",
        "sftp",
        "sid",
        "smtp",
        "sms",
        "sql",
        "ssh",
        "ssl",
        "tls",
        "url",
    ]
)
_BETWEEN_WORDS = re.compile(r"[_\-\s]+|(?<=[a-z0-9])(?=[A-Z])")
_COLORS: Final = ("#0969da", "#1a7f37", "#8250df", "#bc4c00", "#bf3989", "#6e5494", "#0a7285", "#57606a")
"""Colors on which white letters can be read."""
_ICON_STYLE: Final = "display:inline-block;vertical-align:text-bottom;margin:0 5px 0 0"


@lru_cache(maxsize=10_000)  # a checkout of components has thousands of apps
def format_app_name(slug: str) -> str:
    """Return the display name of an app: `Google Sheets` for `google_sheets`."""
    words = [word.upper() if word in _CAPITALS else word[:1].upper() + word[1:] for word in slug.split("_") if word]
    return _NAMES.get(slug) or " ".join(words)


def format_credential_name(name: str) -> str:
    """Return the title of a credential field: `API key` for `api_key`, `Account SID` for `AccountSid`."""
    words = [word.upper() if word.lower() in _CAPITALS else word.lower() for word in _BETWEEN_WORDS.split(name)]
    title = " ".join(filter(None, words))
    return _CREDENTIAL_NAMES.get(name) or title[:1].upper() + title[1:] or name


@lru_cache(maxsize=1000)
def build_app_icon_url(slug: str) -> str:
    """Return a data URL of an icon: the initials of the app's name on a colored disc. Loads nothing from another machine."""
    name = format_app_name(slug)
    initials = "".join(word[0] for word in name.split(" ")[:2] if word[:1].isalnum()).upper() or "?"
    color = _COLORS[zlib.crc32(slug.encode()) % len(_COLORS)]
    icon = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><circle cx="24" cy="24" r="24" fill="{color}"/>'
        f'<text x="24" y="{32 if len(initials) == 1 else 31}" font-size="{24 if len(initials) == 1 else 20}" fill="#fff"'
        f' text-anchor="middle" font-family="sans-serif" font-weight="bold">{initials}</text></svg>'
    )
    return f"data:image/svg+xml,{quote(icon)}"


def app_icon(slug: str, *, size_px: int = 18, style: str = _ICON_STYLE) -> Html:
    """Return the app's icon as an image for beside its name; a screen reader reads the name only."""
    image = tag(
        "img",
        alt="",
        width=str(size_px),
        height=str(size_px),
        src=build_app_icon_url(slug),
        class_="pd-app",
        style=style,
    )
    return Html(image.removesuffix("</img>"))


def app_label(slug: str) -> Html:
    """Return the app's icon and name."""
    return Html(app_icon(slug) + tag("strong", format_app_name(slug)))

"""Pages of a list and the tokens that lead from one to the next."""

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime

from safedefer.emulator.cloud_tasks.errors import invalid_argument
from safedefer.emulator.cloud_tasks.limits import PAGE_TOKEN_LIFE

NOT_A_PAGE = "The page token is not valid for this request, or has expired."


@dataclass(frozen=True, slots=True, kw_only=True)
class PageToken:
    """Where a list was left: of which parent, after which entry, and when."""

    parent: str
    after: str
    issued_at: datetime

    def encode(self) -> str:
        """Write the token; to the caller it is opaque."""
        fields = [self.parent, self.after, self.issued_at.timestamp()]
        return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def parse_page_token(text: str, *, parent: str, now: datetime) -> str:
    """Return the entry after which the page starts, or an empty string for the first page.

    Raises:
        CallError: INVALID_ARGUMENT: not a token of ours, another list's, or older than two hours.
    """
    if not text:
        return ""
    try:
        fields: object = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (binascii.Error, ValueError) as error:
        raise invalid_argument(NOT_A_PAGE) from error
    match fields:
        case [str(of_parent), str(after), float(issued_at)] if of_parent == parent:
            if not 0 <= now.timestamp() - issued_at <= PAGE_TOKEN_LIFE.total_seconds():
                raise invalid_argument(NOT_A_PAGE)
            return after
        case _:
            raise invalid_argument(NOT_A_PAGE)


def page_size(asked: int, *, most: int) -> int:
    """Return how many entries a page holds. Zero means as many as there may be.

    Raises:
        CallError: INVALID_ARGUMENT, for a negative size.
    """
    if asked < 0:
        raise invalid_argument("The page size cannot be negative.")
    return min(asked or most, most)

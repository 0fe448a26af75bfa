"""What the Google clients write to the log. With their loggers at level DEBUG these are whole requests and answers."""

import logging
from typing import Final, final


@final
class _WithoutPayload(logging.Filter):
    """Takes out what a client adds to its own records: what was sent and received, arguments included."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name in ("request", "response"):
            record.__dict__.pop(name, None)
        return True


_WITHOUT_PAYLOAD: Final = _WithoutPayload()


def hide_payloads(transport: type) -> None:
    """Keep requests and answers of a client out of its log records, which stay otherwise.

    Args:
        transport: The class of the client's transport; its module is the one that logs them.
    """
    logging.getLogger(transport.__module__).addFilter(_WITHOUT_PAYLOAD)

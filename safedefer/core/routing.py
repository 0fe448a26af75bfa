"""Which App Engine service, version and instance answers a task: through the `-dot-` hosts of its HTTP target.

Tasks of App Engine's own target type carry no identity token; an HTTP target with such a host does.
Spec: https://cloud.google.com/appengine/docs/standard/how-requests-are-routed
"""

import re
from dataclasses import dataclass
from typing import Final, final
from urllib.parse import urlsplit, urlunsplit

from safedefer.errors import InvalidOptionError

APP_ENGINE_DOMAIN: Final = ".appspot.com"
_LABEL_LENGTH: Final = 63
"""RFC 1035; App Engine's own certificates end there, too."""
_DOT: Final = "-dot-"
_HOST_PART: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where in an App Engine application a task runs; None leaves it to the application's traffic split."""

    service: str | None = None
    version: str | None = None
    instance: str | None = None


ANYWHERE: Final = Route()


def is_host_part(text: str) -> bool:
    """Whether a text can name a service, version or instance in a host: lower case letters, digits, inner hyphens."""
    return _HOST_PART.fullmatch(text) is not None and _DOT not in text


def is_app_engine_host(host: str) -> bool:
    """Whether a host name is one that App Engine routes by its first label."""
    return host.endswith(APP_ENGINE_DOMAIN)


def routed_url(handler_url: str, route: Route) -> str:
    """The handler's URL on the service, version and instance of a route.

    A URL whose host already names a service or version keeps what the route does not say. A loopback host has no
    services: there, a route changes nothing, so that code that names one runs on a local cloud.

    Raises:
        InvalidOptionError: The host is not App Engine's, an instance without a version, or a name that is too long.
    """
    if route == ANYWHERE:
        return handler_url
    parts = urlsplit(handler_url)
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return handler_url
    if not is_app_engine_host(host):
        raise InvalidOptionError(
            "options service, version and instance route within App Engine; HANDLER_URL is on another host"
        )
    first, _, domain = host.partition(".")
    label = _label(first, route)
    if len(label) > _LABEL_LENGTH:
        raise InvalidOptionError(f"service, version and instance make a host name of more than {_LABEL_LENGTH} letters")
    port = "" if parts.port is None else f":{parts.port}"
    return urlunsplit(parts._replace(netloc=f"{label}.{domain}{port}"))


def _label(first: str, route: Route) -> str:
    """The first label: instance, version and service, in that order, before the application's own name."""
    *named, application = first.split(_DOT)
    service = route.service or (named[-1] if named else None)
    version = route.version or (named[-2] if len(named) > 1 and route.service is None else None)
    if route.instance is not None and version is None:
        raise InvalidOptionError("option instance: App Engine finds an instance by its version; give that as well")
    if version is not None and service is None:
        service = "default"
    chosen = (route.instance, version, service, application)
    return _DOT.join(part for part in chosen if part is not None)

"""A running site: the tests' Django project behind a real HTTP server, and the local cloud that calls it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer.api import Deferrable
from safedefer.core.audit import Action, AuditEvent
from safedefer.core.claims import Claims, Storage
from safedefer.core.envelope import CONTENT_TYPE, parse_envelope
from safedefer.core.keys import Key
from safedefer.core.signing import claim_body, sign_envelope, verify_envelope
from safedefer.django.conf import LOCAL_SERVICE_ACCOUNT
from safedefer.emulator import LocalCloud
from safedefer.flow.deadletters import list_letters
from safedefer.flow.defer import seal_call
from safedefer.flow.runtime import Runtime, install
from tests.site.shop.models import Trace
from tests.support.channels import open_channel

QUEUE: Final = "default"
PATH: Final = "/_safedefer/"
WAIT_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Reply:
    """What the handler answered."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Site:
    """The running handler, the local cloud, and what was recorded."""

    origin: str
    cloud: LocalCloud
    runtime: Runtime
    events: list[AuditEvent] = field(default_factory=list)

    @property
    def url(self) -> str:
        """URL of the handler; also the audience of its tokens."""
        return self.origin + PATH

    def pause(self) -> None:
        """Let nothing of the queue `default` be dispatched."""
        with open_channel(self.cloud.tasks.address) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            client.pause_queue(name=f"projects/local/locations/local1/queues/{QUEUE}")

    def resume(self) -> None:
        """The end of a pause."""
        with open_channel(self.cloud.tasks.address) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            client.resume_queue(name=f"projects/local/locations/local1/queues/{QUEUE}")

    def run_tasks(self) -> None:
        """Wait until nothing is due and nothing is being dispatched."""
        assert self.cloud.tasks.wait_idle(WAIT_SECONDS), "the local cloud did not become idle"

    def run_tasks_until(self, condition: Callable[[], bool]) -> None:
        """Wait for tasks that are tried again a moment later."""
        ends = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < ends, "it did not come to that"
            self.run_tasks()

    def tasks(self) -> list[Any]:
        """The tasks that wait in the queue `default`, bodies included."""
        with open_channel(self.cloud.tasks.address) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            parent = f"projects/local/locations/local1/queues/{QUEUE}"
            request = {"parent": parent, "response_view": tasks_v2.Task.View.FULL}
            return list(client.list_tasks(request=request))

    def traces(self) -> list[str]:
        """What deferred functions left behind."""
        return list(Trace.objects.order_by("pk").values_list("text", flat=True))

    def dispatches(self) -> list[AuditEvent]:
        """The final audit event of each dispatch."""
        return [event for event in self.events if event.action is Action.DISPATCH and event.outcome is not None]

    def use(self, **changes: Any) -> None:
        """Let the handler run with other ports or rules from now on, until the test ends."""
        changed = self.runtime = replace(self.runtime, **changes)
        install(lambda: changed)

    def token(self, email: str = LOCAL_SERVICE_ACCOUNT, audience: str | None = None, **claims: object) -> str:
        """An identity token; by default the one that Cloud Tasks would attach."""
        return self.cloud.issuer.mint(email, self.url if audience is None else audience, **claims)

    def seal(self, function: Deferrable[Any], *args: object, **kwargs: object) -> bytes:
        """The envelope that `defer` would send."""
        call = seal_call(self.runtime, function.registered, function.task_options, args, kwargs)
        task: Any = call.task
        return bytes(task.task.http_request.body)

    def forge(
        self, wire: bytes, *, claims: Mapping[str, Any] | None = None, body: bytes | None = None, key: Key | None = None
    ) -> bytes:
        """An envelope like `wire` with other claims or another body, signed again: what a thief of a key could send.

        Args:
            claims: Fields of the claims to replace.
            body: Another body; length and digest follow it.
            key: Sign with this key instead of the primary one.
        """
        envelope = parse_envelope(wire)
        changed: Claims = verify_envelope(envelope, self.runtime.ring, self.runtime.deployment).claims
        new_body = envelope.body if body is None else body
        if body is not None:
            changed = replace(changed, body=claim_body(body, Storage.INLINE))
        changed = replace(changed, **(claims or {}))
        return sign_envelope(changed, new_body, key or self.runtime.ring.primary, self.runtime.deployment)

    def post(
        self,
        body: bytes,
        *,
        token: str | None = None,
        headers: Mapping[str, str | None] | None = None,
        method: str = "POST",
        path: str = PATH,
    ) -> Reply:
        """Send a request to the running handler: by default one that only the body can spoil.

        Args:
            token: Another token; an empty one sends no Authorization header.
            headers: Headers to replace, or with None to leave out.
        """
        sent: dict[str, str | None] = {
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(len(body)),
            "Authorization": f"Bearer {self.token() if token is None else token}" if token != "" else None,
            "X-CloudTasks-QueueName": QUEUE,
            "X-CloudTasks-TaskRetryCount": "0",
            **(headers or {}),
        }
        parts = urlsplit(self.origin)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=WAIT_SECONDS)
        try:
            connection.putrequest(method, path)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            return _reply(connection.getresponse())
        finally:
            connection.close()

    def refusal(self, reply: Reply) -> AuditEvent:
        """The audit event of a refused request, having checked that nothing ran and that the answer tells nothing."""
        assert self.traces() == []
        assert reply.body == b""
        assert not any(event.accepted for event in self.events), self.events
        (event,) = self.dispatches()
        assert (reply.status == HTTPStatus.NO_CONTENT) == (event.outcome in ("dead", "drop"))
        if event.outcome == "dead":
            # Success is answered only because it is kept.
            assert event.reason in {letter.reason for letter in list_letters(self.runtime.records)}
        return event


def _reply(response: HTTPResponse) -> Reply:
    return Reply(response.status, response.read(), dict(response.getheaders()))


def site_settings(origin: str, **changes: object) -> object:
    """Django's settings with a SAFEDEFER setting for a site at `origin`."""

    class Changed:
        DEBUG = True
        SECRET_KEY = django_settings.SECRET_KEY
        SAFEDEFER: Final = {"HANDLER_URL": origin + PATH, **changes}

    return Changed

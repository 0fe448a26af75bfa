"""The connection to a local cloud."""

import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer.emulator import LocalCloud
from safedefer.gcp.local_channel import open_local_channel

QUEUE = "projects/local/locations/local1/queues/default"


def test_proxy_for_the_internet_is_not_asked_for_the_local_cloud(
    local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        # A server, but no proxy: it would refuse to lead anywhere.
        monkeypatch.setenv(name, local_cloud.issuer.url)
    with open_local_channel(local_cloud.tasks.address) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        assert client.get_queue(name=QUEUE, timeout=10).name == QUEUE

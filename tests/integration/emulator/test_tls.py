"""Dispatch to https targets: certificates are checked, and deadlines hold within TLS as well."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer.emulator import LocalCloud, ManualClock
from tests.integration.emulator.targets import Reply, Target
from tests.support.channels import open_channel


@pytest.fixture
def certificate_file(tmp_path: Path) -> Path:
    """Write a certificate for 127.0.0.1 and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "target")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "target.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def target(certificate_file: Path) -> Iterator[Target]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate_file)
    target = Target(tls)
    yield target
    target.stop()


def send(cloud: LocalCloud, queue: str, url: str) -> None:
    with open_channel(cloud.tasks.address) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        client.create_task(parent=queue, task=tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=url)))


def test_certificate_that_nobody_vouches_for_fails_the_attempt(cloud: LocalCloud, queue: str, target: Target) -> None:
    send(cloud, queue, target.url())
    assert cloud.tasks.wait_attempts(1, 20)
    assert cloud.tasks.attempts[0].outcome == "unreachable"
    assert list(target.received) == []


def test_trusted_target_is_reached_and_cut_off_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, certificate_file: Path, clock: ManualClock, queue: str, target: Target
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file))
    target.reply(Reply(after=target.gate()), 200)
    with LocalCloud(clock=clock, queues=[queue]) as cloud:
        send(cloud, queue, target.url())
        assert target.wait_received(1)
        clock.advance(600)
        assert cloud.tasks.wait_attempts(1, 20)
        clock.advance(1)
        assert cloud.tasks.wait_attempts(2, 20)
    assert [attempt.outcome for attempt in cloud.tasks.attempts] == ["deadline", "response"]

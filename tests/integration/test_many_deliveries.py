"""A thousand deliveries of two hundred tasks, in random order, by threads of two processes: each task runs once."""

import base64
import json
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections

from tests.site.shop import tasks
from tests.site.shop.models import Trace
from tests.support.site import Site

TASKS = 200
DELIVERIES = 1_000
PROCESSES = 2
THREADS = 8


def worker_environment(site: Site, alias: str, store: dict[str, Any]) -> dict[str, str]:
    """What a worker process needs to be a worker of this site on a database of this test run."""
    settings = connections[alias].settings_dict
    database = {name: settings[name] for name in ("ENGINE", "USER", "HOST", "OPTIONS")} | {
        "NAME": str(settings["NAME"])
    }
    return {
        **os.environ,
        **site.cloud.environment(),
        "DJANGO_SETTINGS_MODULE": "tests.site.worker_settings",
        "WORKER_DATABASE": json.dumps(database),
        "WORKER_SAFEDEFER": json.dumps({"HANDLER_URL": site.url, **store}),
    }


@pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])
@pytest.mark.parametrize(
    ("alias", "store"), [("default", "orm"), ("postgres", "orm"), ("postgres", "datastore")], ids=lambda value: value
)
def test_each_task_runs_once_however_often_it_is_delivered(site: Site, alias: str, store: str) -> None:
    texts = [f"task {number}" for number in range(TASKS)]
    envelopes = [base64.b64encode(site.seal(tasks.note, text)).decode() for text in texts]
    order = [index % TASKS for index in range(DELIVERIES)]
    random.Random(20_261_123).shuffle(order)
    share = DELIVERIES // PROCESSES
    environment = worker_environment(site, alias, {"STORE": store})

    def work(number: int) -> Counter[str]:
        job = {
            "envelopes": envelopes,
            "token": site.token(),
            "order": order[number * share : (number + 1) * share],
            "threads": THREADS,
        }
        command = [sys.executable, "-W", "error", "-m", "tests.support.worker"]
        done = subprocess.run(
            command, env=environment, input=json.dumps(job), capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return Counter(json.loads(done.stdout))

    with ThreadPoolExecutor(PROCESSES) as pool:
        statuses = sum(pool.map(work, range(PROCESSES)), Counter[str]())
    assert statuses == {"204": DELIVERIES}
    executed = Counter(Trace.objects.using(alias).values_list("text", flat=True))
    assert executed == Counter(f"note {text}" for text in texts)

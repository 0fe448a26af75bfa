"""A process that is killed at a given point between the begin of a transaction and its acknowledgement, many times.

Reads one line of JSON from standard input (`seed`, `points`, `large`) and writes one that says what was attempted. Each
attempt runs in a fork, which is killed with SIGKILL at its n-th function call; n is drawn at random.
"""

import faulthandler
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias

import django
from django.db import transaction

Work: TypeAlias = Callable[[str, bool], None]


def main() -> None:
    """Attempt as often as asked."""
    django.setup()
    job = json.loads(sys.stdin.readline())
    source = random.Random(job["seed"])
    work = order_large if job["large"] else order
    length = measure(work)
    killed = 0
    for number in range(job["points"]):
        killed += attempt(work, f"{job['seed']}-{number}", source.randrange(length), rolled_back=source.random() < 0.3)
    sys.stdout.write(json.dumps({"killed": killed, "length": length}) + "\n")


def measure(work: Work) -> int:
    """How many function calls one whole attempt takes."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        counted = Counted(None)
        sys.setprofile(counted)
        work("measured", False)
        sys.setprofile(None)
        os.write(writer, str(counted.calls).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        length = int(answer.read())
    os.waitpid(child, 0)
    return length


def attempt(work: Work, name: str, kill_at: int, *, rolled_back: bool) -> bool:
    """One attempt in a process of its own; gives whether it was killed."""
    if (child := os.fork()) == 0:
        faulthandler.dump_traceback_later(15, exit=True)
        sys.setprofile(Counted(kill_at))
        try:
            work(name, rolled_back)
        except InterruptedError:
            pass
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def order(name: str, rolled_back: bool) -> None:  # One signature for both.
    """Write a row and defer a call in one transaction."""
    from tests.site.shop.models import Customer
    from tests.site.shop.tasks import note

    with transaction.atomic():
        Customer.objects.create(name=name)
        note.defer(name)
        if rolled_back:
            raise InterruptedError


def order_large(name: str, rolled_back: bool) -> None:
    """Defer a call whose body no task can hold, in no transaction."""
    from tests.site.shop.tasks import measure_text

    measure_text.defer(name, "x" * 1_200_000)


class Counted:
    """Counts function calls and, at the one asked for, kills its process."""

    def __init__(self, kill_at: int | None) -> None:
        self.calls = 0
        self.kill_at = kill_at

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            if self.calls == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1


if __name__ == "__main__":
    main()

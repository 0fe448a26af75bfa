"""manage.py order_and_die: commit an order and be gone before the letter about it is sent, as in a crash."""

import os
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from orders.models import Customer
from orders.tasks import write


class Command(BaseCommand):
    """What the outbox is there for."""

    help = "Commit an order, and die between the commit and the sending."

    def handle(self, *args: Any, **options: Any) -> None:
        """Write a customer, defer a letter, and end without a word."""
        with transaction.atomic():
            customer = Customer.objects.create(name="Eve")
            transaction.on_commit(lambda: os._exit(9))  # Before the callback that would send.
            write.defer(customer, "Your order has survived.")

"""What the shop does later."""

import time
from decimal import Decimal

from django.db.models import QuerySet

from orders.models import Customer, Invoice, Letter
from safedefer import RetryOptions, deferrable, deferrable_queryset


@deferrable(name="orders.charge")
def charge(customer: Customer, amount: Decimal, *, note: str = "") -> None:
    """Charge a customer, and have a letter written about it."""
    Invoice.objects.create(customer=customer, amount=amount, note=note)
    write.defer(customer, f"You were charged {amount}.")


@deferrable(name="orders.write")
async def write(customer: Customer, text: str) -> None:
    """Write to a customer."""
    await Letter.objects.acreate(customer=customer, text=text)


@deferrable(name="orders.confirm", retry=RetryOptions(max_attempts=1))
def confirm(customer: Customer) -> None:
    """Tell a customer about their last invoice, of which there has to be one."""
    invoice = Invoice.objects.filter(customer=customer).latest("pk")
    Letter.objects.create(customer=customer, text=f"Confirmed: {invoice.amount}")


@deferrable_queryset("orders.visitors")
def visitors() -> QuerySet[Customer]:
    """Customers who only came by."""
    return Customer.objects.filter(name__startswith="visitor ")


@deferrable(name="orders.thank")
def thank(customer: Customer, text: str) -> None:
    """Write to one of many."""
    time.sleep(0.001)  # As long as a mail server next door takes.
    Letter.objects.create(customer=customer, text=text)


@deferrable(name="orders.thanked")
def thanked(text: str) -> None:
    """Write down that all were written to."""
    Letter.objects.create(customer=Customer.objects.get(name="Ada"), text=f"All: {text}")

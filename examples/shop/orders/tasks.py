"""What the shop does later."""

from decimal import Decimal

from orders.models import Customer, Invoice, Letter
from safedefer import deferrable


@deferrable(name="orders.charge")
def charge(customer: Customer, amount: Decimal, *, note: str = "") -> None:
    """Charge a customer, and have a letter written about it."""
    Invoice.objects.create(customer=customer, amount=amount, note=note)
    write.defer(customer, f"You were charged {amount}.")


@deferrable(name="orders.write")
async def write(customer: Customer, text: str) -> None:
    """Write to a customer."""
    await Letter.objects.acreate(customer=customer, text=text)

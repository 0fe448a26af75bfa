"""The example's application."""

from django.apps import AppConfig


class OrdersConfig(AppConfig):
    """Customers, orders, and what is done for them later."""

    name = "orders"

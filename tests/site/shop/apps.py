"""The tests' application."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Its label is `shop`."""

    name = "tests.site.shop"
    label = "shop"

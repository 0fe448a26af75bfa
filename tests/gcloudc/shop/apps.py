"""The application of the project on Datastore."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Named as its models are in the database."""

    name = "tests.gcloudc.shop"
    label = "shop"

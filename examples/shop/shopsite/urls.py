"""The handler of safedefer, and a page that shows what the tasks have done."""

from django.urls import include, path
from orders.views import overview

urlpatterns = [
    path("", overview),
    path("_safedefer/", include("safedefer.urls")),
]

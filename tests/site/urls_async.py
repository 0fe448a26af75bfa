"""The same with the asynchronous handler."""

from django.urls import include, path

urlpatterns = [path("_safedefer/", include("safedefer.urls_async"))]

"""The URLs of the tests' Django project."""

from django.urls import include, path

urlpatterns = [path("_safedefer/", include("safedefer.urls"))]

"""What `path("_safedefer/", include("safedefer.urls"))` mounts: the handler."""

from django.urls import URLPattern, path

from safedefer.django.handler import task_handler

app_name: str = "safedefer"
urlpatterns: list[URLPattern] = [path("", task_handler, name="handler")]

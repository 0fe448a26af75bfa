"""What `path("_safedefer/", include("safedefer.urls_async"))` mounts under ASGI: the asynchronous handler."""

from django.urls import URLPattern, path

from safedefer.django.handler import async_task_handler

app_name: str = "safedefer"
urlpatterns: list[URLPattern] = [path("", async_task_handler, name="handler")]

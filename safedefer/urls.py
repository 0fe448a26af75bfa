"""What `path("_safedefer/", include("safedefer.urls"))` mounts: the handler."""

from django.urls import path

from safedefer.django.handler import task_handler

app_name = "safedefer"
urlpatterns = [path("", task_handler, name="handler")]

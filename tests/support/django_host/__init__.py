"""A Django project as its own guide and Celery's have it, with what docs/integrating.md adds: one line."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_init

import qbo_refresh

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.support.django_host.settings")
app = Celery("django_host")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
qbo_refresh.configure(app=app)


@worker_init.connect
def look_around(**_: Any) -> None:
    """Connect before the pool forks, as hosts do that read something when they start."""
    from tests.support.django_host.models import Run  # noqa: PLC0415  # Django's models need its settings first

    Run.objects.count()
    qbo_refresh.events()

"""The project's sync."""

import os

from celery import shared_task
from django.db import transaction

import qbo_refresh
from tests.support.django_host.models import Run


@shared_task(base=qbo_refresh.SyncTask)
def sync(connection_id: int, number: int) -> None:
    """Sync in a transaction of Django's."""
    with transaction.atomic():
        run = Run.objects.create(connection_id=connection_id, what=f"began {number}")
        token = qbo_refresh.access_token(connection_id)
        run.what = f"sync {number} in {os.getpid()} had version {token.version}"
        run.save()

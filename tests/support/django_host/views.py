"""The project's addresses and pages, each in a transaction (ATOMIC_REQUESTS)."""

from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponse
from django.urls import path

import qbo_refresh
from tests.support.django_host import tasks
from tests.support.django_host.models import Run


def start(_: Any) -> Any:
    """Say that it answers."""
    return HttpResponse("Django")


def send(_: Any, connection_id: int, count: int) -> Any:
    """Have syncs run once this has been committed."""
    for number in range(count):
        transaction.on_commit(lambda number=number: tasks.sync.delay(connection_id, number))
    return HttpResponse("sent")


def token(_: Any, connection_id: int) -> Any:
    """Ask for a token after something was written."""
    Run.objects.create(connection_id=connection_id, what="asked")
    return HttpResponse(f"version {qbo_refresh.access_token(connection_id).version}")


def rolled_back(_: Any, connection_id: int) -> Any:
    """Ask for a token in a transaction that can only be rolled back any more."""
    Run.objects.create(connection_id=connection_id, what="rolled back")
    try:
        with transaction.atomic(savepoint=False):
            Run.objects.create(connection_id=connection_id, what="rolled back")
    except IntegrityError:
        return HttpResponse(f"version {qbo_refresh.access_token(connection_id).version}")
    return HttpResponse("no error", status=500)


urlpatterns = [
    path("", start),
    path("send/<int:connection_id>/<int:count>", send),
    path("token/<int:connection_id>", token),
    path("rolled-back/<int:connection_id>", rolled_back),
]

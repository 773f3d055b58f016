"""What the project writes down."""

from django.db import models


class Run(models.Model):  # type: ignore[misc]  # noqa: DJ008  # it has no types; nobody prints it
    """A sync or a request that got through."""

    connection_id = models.BigIntegerField()
    what = models.CharField(max_length=100, unique=True)

    class Meta:  # noqa: D106  # Django's way to say it
        db_table = "django_host_run"

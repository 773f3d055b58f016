"""Django's settings. Of QuickBooks there is nothing in them."""

import os
from urllib.parse import urlsplit

_DATABASE = urlsplit(os.environ["HOST_DATABASE_URL"])

SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.support.django_host.views"
INSTALLED_APPS = ["tests.support.django_host"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _DATABASE.path[1:],
        "HOST": _DATABASE.hostname,
        "PORT": _DATABASE.port,
        "USER": _DATABASE.username,
        "PASSWORD": _DATABASE.password,
        "CONN_MAX_AGE": 600,
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"application_name": "django"},
    }
}
CELERY_BROKER_URL = os.environ["HOST_BROKER_URL"]
CELERY_TASK_DEFAULT_QUEUE = "host"
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

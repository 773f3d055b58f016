"""A small bookkeeping service that was here before: own Celery app, own queue, own beat, own pages. Copy from it."""

"""What a host application and the worker share: statuses, sealing, the tables. Importing it creates no Celery app."""

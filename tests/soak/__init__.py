"""The fleet through 400 days in minutes: the real sweep and refresh on PostgreSQL, with the clocks moved on."""

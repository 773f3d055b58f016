"""The one home of SQL. Functions take the database first and answer one question each; callers own the transactions."""

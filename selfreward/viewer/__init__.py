"""A run in a browser: pages and JSON over ``records.db``, which is only read."""

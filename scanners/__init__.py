"""Engines that look at bytes. A leaf: knows no bucket, no database, no queue."""

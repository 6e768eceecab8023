"""A run's folder: append-only records, their locks, and what they were made by."""

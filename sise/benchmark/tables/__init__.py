"""From records to the papers' tables."""

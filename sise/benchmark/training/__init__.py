"""How the suite's own weights were made."""

"""Data sets, a file each: `base` holds what they share."""

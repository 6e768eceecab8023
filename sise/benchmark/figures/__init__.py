"""Figures, a file each; `layout` and `colours` are shared."""

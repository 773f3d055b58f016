"""Connections from a file: `lines` reads, `layout` and `rows` understand, `judging` decides, `load` writes."""

"""Whole fleets in and out: `here` and `staging` serve the import, `outgoing` the export."""

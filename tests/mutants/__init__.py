"""Each guard of the protocol removed in turn: a fast test must fail then. `make mutants`."""

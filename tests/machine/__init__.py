"""A rule-based machine of Hypothesis over the real use cases: any order of what may happen to two connections."""

"""The real refresh use case on a world that is small enough to be searched: every order, every fault, every provider.

`python -m tests.explore`, or `make explore`. The world's parts are stand-ins with the semantics of the real ones, which
`tests/db/test_stand_ins.py` holds both to.
"""

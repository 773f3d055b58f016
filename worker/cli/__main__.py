"""`python -m worker.cli`: the same as `qbo-refresh`, where that is not on the PATH."""

from worker.cli import main

main()

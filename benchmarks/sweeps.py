"""The dispatch of many due connections: how fast it publishes, and whether its memory depends on their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import fleet
from benchmarks.measure import Sweep
from benchmarks.stage import CouldNotRun

if TYPE_CHECKING:
    from benchmarks.stage import Stage

# Imports, connections and the first batch's buffers are not what grows with the fleet.
WARM_UP = 2000
_QUEUE = "qbo.sweep"


def run(stage: Stage, rows: int) -> Sweep:
    """Let a fresh process publish that many of the rows, which nobody takes.

    Raises:
        CouldNotRun: It published another number.
    """
    with stage.start("-m", "benchmarks.contenders.sweep") as process:
        for count in (WARM_UP, rows):
            stage.broker.delete(_QUEUE)
            fleet.make_due(stage, count)
            stage.db.execute("VACUUM ANALYZE")
            took = process.order()
            published = stage.broker.llen(_QUEUE)
            if published != count:
                raise CouldNotRun(f"The sweep published {published} connections of {count} that were due.")
    stage.broker.delete(_QUEUE)
    return Sweep(rows, took["seconds"], took["cpu_seconds"], took["grew_kib"])

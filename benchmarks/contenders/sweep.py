"""The worker's own sweep in a process of its own: publishes what is due when told, and says what that took."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from worker.tasks import dispatch_due_task


def memory_kib(name: str) -> int:
    """Return `VmRSS` (now) or `VmHWM` (the most so far). Without /proc both are the most so far."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name + ":"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == "darwin" else most


def main() -> None:
    """Sweep once for each line of standard input."""
    for _ in sys.stdin:
        before = memory_kib("VmRSS")
        began, cpu = time.perf_counter(), time.process_time()
        dispatch_due_task()
        took = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "grew_kib": memory_kib("VmHWM") - before,
        }
        sys.stdout.write(json.dumps(took) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Plays the story once and says what held. Exit status 1 if something did not, 2 if it cannot be played here."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from qbo_refresh.errors import QboRefreshError
from story import scenes
from story.stage import SHORTENED, Stage

_OTHERWISE = {"CONFIRM_AFTER_SECONDS": "900", "SWEEP_SECONDS": "60", "SYNC_EVERY_SECONDS": "3600, the host's own beat"}


def main() -> int:
    """Play it, print each check as it is made, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make example", description=scenes.__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    keep = parser.parse_args().keep
    print("A host of three customers beside the worker, against the simulator of Intuit; 90 s at most.")
    print("Pauses are shortened for it, by configuration alone:")
    for name, value in SHORTENED.items():
        print(f"  {name:<21} {value:>3}   otherwise {_OTHERWISE[name]}")
    try:
        with Stage() as stage:
            print(f"\nThe host's page: {stage.web}\n", flush=True)
            began = time.monotonic()
            checks = []
            for check in scenes.play(stage):
                print(f"  {'✓' if check.holds else '✗'} {check.words}", flush=True)
                checks.append(check)
            if keep:
                _linger(stage)
    except QboRefreshError as error:
        print(error, file=sys.stderr)
        return 2
    good = all(check.holds for check in checks)
    took = "" if keep else f", in {time.monotonic() - began:.0f} s with the shutdown"
    print(f"\n{'Everything held' if good else 'Something did NOT hold'}{took}.")
    return 0 if good else 1


def _linger(stage: Stage) -> None:
    print(f"\nEverything still runs, until Ctrl-C. The page: {stage.web}  Intuit: {stage.simulator.base_url}")
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("Stopping.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped.")

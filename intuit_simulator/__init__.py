"""A simulator of Intuit's OAuth 2.0 server, with its quirks and faults, for demos, tests and benchmarks."""

from intuit_simulator.client import CreatedGrant, Simulator, SimulatorError
from intuit_simulator.grants import GrantState
from intuit_simulator.journal import Call, Check
from intuit_simulator.process import StartedSimulator, start
from intuit_simulator.tokens import fingerprint

__all__ = [
    "Call",
    "Check",
    "CreatedGrant",
    "GrantState",
    "Simulator",
    "SimulatorError",
    "StartedSimulator",
    "fingerprint",
    "start",
]

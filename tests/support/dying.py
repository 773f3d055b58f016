"""A refresh that ends before or after a call of its ports, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.refresh import Refresher


@dataclass
class Steps:
    """The calls of an attempt's ports, in order: `end` is called at one of the moments before and after them.

    Attributes:
        moment: Twice the call's number, and one more for after it; None for never.
        calls: Their names so far.
    """

    moment: int | None
    end: Callable[[], object]
    calls: list[str] = field(default_factory=list)

    def around(self, by: Refresher) -> Refresher:
        """Return a refresher whose calls are counted."""
        ports: Any = {name: _Counted(self, name, getattr(by, name)) for name in ("store", "escrow", "intuit")}
        return replace(by, **ports)

    def call(self, name: str, work: Callable[[], Any]) -> Any:
        """Do one call."""
        number = len(self.calls)
        self.calls.append(name)
        if self.moment == 2 * number:
            self.end()
        try:
            return work()
        finally:
            if self.moment == 2 * number + 1:
                self.end()


class _Counted:
    def __init__(self, steps: Steps, name: str, port: object) -> None:
        self._steps, self._name, self._port = steps, name, port

    def __getattr__(self, method: str) -> Any:
        if method == "connect":  # no step: it changes nothing anywhere
            return getattr(self._port, method)
        real, name = getattr(self._port, method), f"{self._name}.{method}"
        return lambda *args, **kwargs: self._steps.call(name, lambda: real(*args, **kwargs))

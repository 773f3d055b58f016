"""Ports of a refresher with something done before or after one of their methods: where a process may die or freeze."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.ending import Ender
    from worker.exchange import Exchanger
    from worker.refresh import Refresher

Port = Literal["store", "escrow", "intuit"]


class Killed(BaseException):
    """The process ends here: nothing of it runs any further."""


def killed() -> None:
    """End the attempt as kill -9 would."""
    raise Killed


class _Seam:
    def __init__(
        self, port: object, method: str, before: Callable[[], object] | None, after: Callable[[], object] | None
    ) -> None:
        self._port, self._method, self._before, self._after = port, method, before, after

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        return self._wrapped(attribute) if name == self._method else attribute

    def _wrapped(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._before is not None:
                self._before()
            result = method(*args, **kwargs)
            if self._after is not None:
                self._after()
            return result

        return call


U = TypeVar("U", "Refresher", "Exchanger", "Ender")


def with_seam(
    refresher: U,
    port: Port,
    method: str,
    *,
    before: Callable[[], object] | None = None,
    after: Callable[[], object] | None = None,
) -> U:
    """Return a refresher, or another use case, that does something before or after one method of one of its ports."""
    seam: Any = _Seam(getattr(refresher, port), method, before, after)
    return replace(refresher, **{port: seam})

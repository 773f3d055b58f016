"""What a task is called with, looked at before it runs: a wrong call is a line of the log, not a traceback."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from celery import Task

from worker import log

if TYPE_CHECKING:
    from collections.abc import Callable

    _Task = Task[Any, Any]
else:
    _Task = Task

# Ten years: what a duration may be.
_LONGEST_S = 10 * 365 * 86400


class WrongArgumentsError(TypeError):
    """A task was called with arguments that it does not take. The caller has it as the task's result."""


class CheckedTask(_Task):
    """A task whose arguments are what its parameters' names say."""

    throws = (WrongArgumentsError,)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Refuse arguments of the wrong number, name or kind.

        Raises:
            WrongArgumentsError: They are; its text holds nothing of what was given.
        """
        del task_id
        wrong = fault(inspect.signature(self.run), args, kwargs)
        if wrong is not None:
            log.warning("task.refused", task=self.name, reason=wrong)
            raise WrongArgumentsError(wrong)


def fault(taken: inspect.Signature, args: Any, kwargs: Any) -> str | None:
    """Return in a sentence what is wrong with the arguments of a call, or None."""
    try:
        given = taken.bind(*args, **kwargs).arguments
    except TypeError:
        return f"it takes {', '.join(taken.parameters) or 'no arguments'}; it was given others, or not all"
    for name, value in given.items():
        may_be, words = _MAY_BE[name]
        if not (may_be(value) or (value is None and taken.parameters[name].default is None)):
            return f"{name} must be {words}"
    return None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LONGEST_S


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# By a parameter's name; each parameter of a task is here.
_MAY_BE: dict[str, tuple[Callable[[object], bool], str]] = {
    "connection_id": (_is_id, "a number: our id of the connection"),
    "authorization_id": (_is_id, "a number: our id of the authorization"),
    "max_age": (_is_duration, "a number of seconds"),
    "min_ttl": (_is_duration, "a number of seconds"),
    "external_id": (_is_text, "a text"),
}

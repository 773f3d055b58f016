"""A string that shows nothing of itself. Limit: it hides from eyes and pickles, not from a debugger."""

from __future__ import annotations

import hmac
from typing import NoReturn, Self


class Secret:
    """A token, code, key or realm id whose repr, str, format and pickle carry nothing of it.

    Two are equal if their contents are; the comparison takes constant time.
    """

    __slots__ = ("_reveal",)

    def __init__(self, text: str) -> None:
        # A method of the string's: serializers that walk __slots__ and __dict__ (Sentry's among them) print what they
        # find, and its repr is an address. Unlike a function of ours it has no frame whose variables could be shown.
        object.__setattr__(self, "_reveal", text.__str__)

    def reveal(self) -> str:
        """Return the string itself. Call it where it leaves the process, and nowhere else."""
        return self._reveal()  # type: ignore[attr-defined,no-any-return]  # set through object.__setattr__ above

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash((Secret, self.reveal()))

    def __bool__(self) -> bool:
        return bool(self.reveal())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: pass the connection's id instead")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

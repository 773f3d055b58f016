"""The lines of a file, in bounded memory, numbered as an editor numbers them. Knows no format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_LINE = 64 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its line ending.

    Attributes:
        raw: Its bytes; of a line that is too long only the beginning.
        too_long: It is longer than LONGEST_LINE.
    """

    number: int
    raw: bytes
    too_long: bool = False

    def __repr__(self) -> str:
        return f"Line({self.number})"  # it holds tokens


class Lines:
    """The lines of a stream that are not blank. What was read can be read again, if that was asked for."""

    def __init__(self, stream: BinaryIO, *, spool: BinaryIO | None = None) -> None:
        """Take a binary stream.

        Args:
            stream: A file, or standard input.
            spool: Where a copy goes of what cannot be read twice; None if nobody will read again.
        """
        self._stream, self._spool = stream, spool
        self.bytes_read = 0
        self.lines_read = 0

    def __iter__(self) -> Iterator[Line]:
        while raw := self._stream.readline(LONGEST_LINE + 1):
            self.lines_read += 1
            self._count(raw)
            too_long = len(raw) > LONGEST_LINE and not raw.endswith(b"\n")
            if too_long:
                self._skip_the_rest()
            if self.lines_read == 1:
                raw = raw.removeprefix(_BOM)
            raw = raw.rstrip(b"\r\n")
            if too_long or raw.strip():
                yield Line(self.lines_read, raw[:LONGEST_LINE], too_long)

    def _skip_the_rest(self) -> None:
        while rest := self._stream.readline(LONGEST_LINE):
            self._count(rest)
            if rest.endswith(b"\n"):
                return

    def _count(self, raw: bytes) -> None:
        self.bytes_read += len(raw)
        if self._spool is not None:
            self._spool.write(raw)

    def again(self) -> Lines:
        """Return the same lines from the first one on; needs a spool, or a stream that can go back."""
        source = self._spool or self._stream
        source.seek(0)
        return Lines(source)

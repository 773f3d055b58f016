"""What SQL can tell of a sealed blob without opening it (`qbo_refresh.sealing` has the format)."""

from __future__ import annotations

IS_BLOB = "length({0}) > 2"
# As bytes; it stands after the format and its own length.
KEY_ID = "substr({0}, 3, get_byte({0}, 1))"
# What is no blob of ours need not be text.
KEY_ID_TEXT = f"convert_from({KEY_ID}, 'SQL_ASCII')"

"""Lines that `export --sealed` wrote: opened with the keys that sealed them, for the place they were taken from."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from qbo_refresh.sealing import Field, Place, Unsealable, realm_place
from worker.importing.layout import SEALED, BadLine

if TYPE_CHECKING:
    from qbo_refresh.sealing import Keyring


def opened(values: dict[str, str], keyring: Keyring) -> dict[str, str]:
    """Return the line's values with realm id and refresh token in clear; one that is not sealed as it is.

    Raises:
        BadLine: It does not open.
    """
    if values.keys().isdisjoint(SEALED):
        return values
    missing = [f"{name} is missing from a sealed line" for name in (*SEALED, "environment") if name not in values]
    if missing:
        raise BadLine(*missing)
    try:
        environment, connection_id, grant = values["environment"], int(values["id"]), int(values["grant_number"])
        realm_id = keyring.open(
            base64.b64decode(values["sealed_realm_id"], validate=True), realm_place(environment, connection_id)
        )
        refresh_token = keyring.open(
            base64.b64decode(values["sealed_refresh_token"], validate=True),
            Place(environment, connection_id, grant, Field.REFRESH_TOKEN),
        )
    except (ValueError, binascii.Error):
        raise BadLine("the line is not one that `export --sealed` wrote") from None
    except Unsealable as error:
        raise BadLine(str(error)) from None
    rest = {name: value for name, value in values.items() if name not in SEALED}
    return rest | {"realm_id": realm_id.reveal(), "refresh_token": refresh_token.reveal()}

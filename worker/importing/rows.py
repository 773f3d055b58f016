"""What a line must say: texts by column in, a row out, or every reason why not. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from qbo_refresh.secret import Secret
from worker.importing.layout import REQUIRED, TIMES, BadLine
from worker.policy import NEAR_EXPIRY, until_slot

if TYPE_CHECKING:
    from collections.abc import Mapping

INACTIVITY = timedelta(days=100)  # Intuit's rule: a grant that nobody refreshes for so long is dead
CLOCKS_DIFFER_BY = timedelta(minutes=5)
_SHAPES = {
    # Intuit's are; anything else comes from another column.
    "realm_id": (re.compile(r"[0-9]{1,64}"), "is not 1 to 64 digits"),
    # RFC 6749 A.17 and A.12, without the space; shorter ones are remains of something.
    "refresh_token": (re.compile(r"[\x21-\x7e]{8,4096}"), "is not 8 to 4,096 visible ASCII characters"),
    "access_token": (re.compile(r"[\x21-\x7e]{8,8192}"), "is not 8 to 8,192 visible ASCII characters"),
    "external_id": (re.compile(r".{1,200}"), "is longer than 200 characters"),
    "label": (re.compile(r".{1,200}"), "is longer than 200 characters"),
}
_SHORTENED = re.compile(r"[0-9]+([.,][0-9]+)?[eE]\+?[0-9]+")
_SHORTENED_BY = "was shortened to a power of ten by a spreadsheet: export it as text"
_YEARS = range(2000, 2200)

AppIds = dict[tuple[str, str], int]
"""(environment, client id) → our id, of the apps that are configured here."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line, understood."""

    line: int
    app_id: int
    environment: str
    realm_id: Secret
    refresh_token: Secret
    access_token: Secret | None
    external_id: str | None
    label: str | None
    token_obtained_at: datetime | None
    access_expires_at: datetime | None
    refresh_expires_at: datetime | None
    hard_expires_at: datetime | None

    def first_due_in(self, connection_id: int, *, now: datetime) -> timedelta:
        """Return when to refresh first: over the day, at once if the grant dies soon or may be about to."""
        if self.refresh_expires_at is not None:
            near = self.refresh_expires_at <= now + NEAR_EXPIRY
        else:
            near = self.token_obtained_at is not None and self.token_obtained_at <= now - INACTIVITY + NEAR_EXPIRY
        return timedelta(0) if near else until_slot(connection_id, now=now)


def understand(values: Mapping[str, str], line: int, *, apps: AppIds, now: datetime) -> Row:
    """Return the row that a line's texts mean.

    Args:
        values: Trimmed texts by column, none of them empty.
        line: Its number.
        apps: Where it may belong.
        now: The database's time.

    Raises:
        BadLine: With every reason.
    """
    reasons = [f"{name} is missing" for name in REQUIRED if name not in values]
    reasons += [
        f"{name} {_SHORTENED_BY if name == 'realm_id' and _SHORTENED.fullmatch(value) else shape[1]}"
        for name, shape in _SHAPES.items()
        if (value := values.get(name)) is not None and not shape[0].fullmatch(value)
    ]
    times = dict.fromkeys(TIMES)
    for name in TIMES:
        if (text := values.get(name)) is not None:
            try:
                times[name] = _time(name, text)
            except BadLine as error:
                reasons += error.reasons
    obtained, access_expires_at = times["token_obtained_at"], times["access_expires_at"]
    if obtained is not None and obtained > now + CLOCKS_DIFFER_BY:
        reasons.append("token_obtained_at is in the future: its zone may be wrong")
    try:
        key = _app(values.get("environment"), values.get("client_id"), apps)
    except BadLine as error:
        reasons += error.reasons
    if reasons:
        raise BadLine(*reasons)
    # An access token that is dead, or of unknown age, would be handed to a host for nothing.
    lives = access_expires_at is not None and access_expires_at > now and "access_token" in values
    return Row(
        line=line,
        app_id=apps[key],
        environment=key[0],
        realm_id=Secret(values["realm_id"]),
        refresh_token=Secret(values["refresh_token"]),
        access_token=Secret(values["access_token"]) if lives else None,
        external_id=values.get("external_id"),
        label=values.get("label"),
        token_obtained_at=obtained,
        access_expires_at=access_expires_at if lives else None,
        refresh_expires_at=times["refresh_expires_at"],
        hard_expires_at=times["hard_expires_at"],
    )


def _time(name: str, text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BadLine(f"{name} is not a time in ISO 8601, such as 2026-01-31T12:00:00Z") from None
    if when.tzinfo is None:
        raise BadLine(f"{name} has no time zone: end it with Z or +00:00")
    if when.year not in _YEARS:
        raise BadLine(f"{name} is not between the years 2000 and 2199")
    return when.astimezone(UTC)


def _app(environment: str | None, client_id: str | None, apps: AppIds) -> tuple[str, str]:
    environment = environment.lower() if environment else None
    if environment not in {None, "production", "sandbox"}:
        raise BadLine("environment is neither production nor sandbox")
    if environment is not None and client_id is not None:
        fitting = [(environment, client_id)] if (environment, client_id) in apps else []
    else:
        fitting = [key for key in apps if environment in {None, key[0]} and client_id in {None, key[1]}]
    if not fitting:
        raise BadLine("no app with this environment and client_id is configured here (INTUIT_CLIENT_ID, INTUIT_APPS)")
    if len(fitting) > 1:
        missing = " and ".join(
            name for name, value in (("environment", environment), ("client_id", client_id)) if value is None
        )
        raise BadLine(f"{missing} must be given: several apps are configured here")
    return fitting[0]

"""What may go wrong with a call: one fault, described and checked. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, Self


class Kind(StrEnum):
    """What a fault does."""

    LATENCY = "latency"
    FREEZE = "freeze"
    ANSWER = "answer"
    DROP = "drop"
    OVERRIDE = "override"
    CUT = "cut"
    DRIP = "drip"
    GZIP = "gzip"
    HUGE = "huge"
    ENDLESS_HEADERS = "endless_headers"


class Phase(StrEnum):
    """When a fault acts. A call meets at most one fault of each phase: the oldest that matches."""

    DELAY = "delay"
    ANSWER = "answer"
    DELIVERY = "delivery"


_PHASES: Final = {
    Kind.LATENCY: Phase.DELAY,
    Kind.FREEZE: Phase.DELAY,
    Kind.ANSWER: Phase.ANSWER,
    Kind.DROP: Phase.ANSWER,
    Kind.OVERRIDE: Phase.ANSWER,
}

_GATEWAY_PAGE: Final = (
    "<html>\n<head><title>Service Unavailable</title></head>\n"
    "<body><h1>We're sorry, this service is unavailable right now.</h1></body>\n</html>\n"
)

# Other names for a kind with some of its options set.
SHORTHANDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "invalid_client": {"kind": "answer", "status": 401, "error": "invalid_client"},
    "invalid_grant": {
        "kind": "answer",
        "status": 400,
        "error": "invalid_grant",
        "description": "Incorrect or invalid refresh token",
    },
    "throttled": {"kind": "answer", "status": 429, "error": "throttled", "description": "Too many requests"},
    "unavailable": {"kind": "answer", "status": 503, "content_type": "text/html", "body": _GATEWAY_PAGE},
    "html": {"kind": "answer", "status": 200, "content_type": "text/html", "body": _GATEWAY_PAGE, "rotate": True},
    "empty": {"kind": "answer", "status": 200, "body": "", "rotate": True},
    "redirect": {"kind": "answer", "status": 302, "location": "http://127.0.0.1:9/elsewhere", "body": ""},
    "no_refresh_token": {"kind": "override", "remove": ["refresh_token"]},
    "reset": {"kind": "cut", "after_bytes": 0, "of": "answer", "reset": True},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Whom and how often:
        realms: only grants of these realms; None for all calls, those with unknown tokens included.
        endpoint: "token", "revoke" or "any".
        count: applied at most so many times. share: applied to this share of the calls, by a generator with `seed`.
        seconds: matches for so long, by real time.

    What:
        delay: seconds of latency. if_gone: what becomes of a delayed request whose client has left before it was
            processed: "process" or "drop".
        status, error, description, body, content_type, headers, retry_after, location: the answer; `body` outranks
            `error`.
        rotate: the grant's state changes first, as if the call had gone well, and then the fault happens.
        fields, remove: what to set and to take away in the JSON of a good answer.
        after_bytes, of: how much of the answer's "body", or of the whole "answer" with its headers, is sent.
        reset: the connection ends with RST instead of FIN.
        interval: seconds between two bytes of what `of` names, "body" or "headers".
        size: bytes of a huge body, of an unpacked gzip body, or of headers until the connection is closed.
    """

    kind: Kind
    id: str = ""
    realms: frozenset[str] | None = None
    endpoint: str = "token"
    count: int | None = None
    share: float = 1.0
    seed: int = 0
    seconds: float | None = None
    rotate: bool = False
    delay: float = 0.0
    if_gone: str = "process"
    status: int = 500
    error: str | None = None
    description: str | None = None
    body: str | None = None
    content_type: str = "application/json;charset=UTF-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: str | None = None
    location: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    after_bytes: int = 0
    of: str = "body"
    reset: bool = False
    interval: float = 1.0
    size: int | None = None

    @property
    def phase(self) -> Phase:
        """When it acts."""
        return _PHASES.get(self.kind, Phase.DELIVERY)

    @property
    def label(self) -> str:
        """How the journal names it."""
        return f"{self.kind}:{self.id}"

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Make a fault of decoded JSON; raises ValueError or TypeError with a sentence."""
        given = dict(options)
        shorthand = SHORTHANDS.get(str(given.get("kind")))
        if shorthand:
            del given["kind"]
            given = {**shorthand, **given}
        if given.get("kind") == Kind.FREEZE:
            given.setdefault("if_gone", "drop")
        for name, value in given.items():
            given[name] = _checked(name, value)
        return cls(**given)

    def as_json(self) -> dict[str, Any]:
        """Return it in JSON's types, without what was left at its default."""
        plain = Fault(kind=self.kind)
        shown = {k: v for k, v in asdict(self).items() if k == "kind" or v != getattr(plain, k)}
        if self.realms is not None:
            shown["realms"] = sorted(self.realms)
        return shown


_CHOICES: Final = {
    "endpoint": ("token", "revoke", "any"),
    "if_gone": ("process", "drop"),
    "of": ("body", "answer", "headers"),
}
_TEXTS: Final = {"id", "error", "description", "body", "content_type", "retry_after", "location"}
_NUMBERS: Final = {"share", "seconds", "delay", "interval"}
_INTEGERS: Final = {"count", "seed", "status", "after_bytes", "size"}
_NULLABLE: Final = {f.name for f in fields(Fault) if f.default is None}


def _checked(name: str, value: Any) -> Any:
    if name not in {f.name for f in fields(Fault)}:
        raise ValueError(f"a fault has no option {name!r}")
    if value is None and name in _NULLABLE:
        return None
    match name:
        case "kind":
            if value not in list(Kind):
                raise ValueError(f"unknown kind {value!r}; known: {', '.join([*Kind, *SHORTHANDS])}")
            return Kind(value)
        case "realms":
            return frozenset([value] if isinstance(value, str) else map(str, value))
        case "remove":
            return tuple(map(str, value))
        case "fields" | "headers":
            if not isinstance(value, Mapping):
                raise TypeError(f"{name} must be an object")
            return dict(value)
        case "share" if isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError("share must be between 0 and 1")
        case _:
            return _checked_scalar(name, value)


def _checked_scalar(name: str, value: Any) -> Any:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(_CHOICES[name])}")
    elif name in _TEXTS:
        return str(value)
    elif name in _INTEGERS | _NUMBERS:
        allowed = int if name in _INTEGERS else int | float
        if isinstance(value, bool) or not isinstance(value, allowed) or value < 0:
            raise ValueError(f"{name} must be a number of at least 0")
    elif not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return value

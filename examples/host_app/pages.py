"""The HTML of the host's pages. Nothing of QuickBooks is decided here."""

from dataclasses import dataclass
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2433; background: #f3f5f8; margin: 0 }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem }
h1 { font-size: 1.5rem; margin: 0 0 1.5rem }
article { background: #fff; border: 1px solid #dde2ea; border-radius: .5rem; padding: 1rem 1.25rem; margin: 0 0 1rem }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem .75rem }
article { overflow-wrap: anywhere }
h2 { font-size: 1.125rem; margin: 0; flex: 1 1 12rem; min-width: 0 }
.state { border-radius: 1rem; padding: .1rem .75rem; font-size: .875rem; background: #e7eaf0 }
.ok { background: #d9f2e3; color: #14532d } .wait { background: #fdf0cd; color: #6b4a00 }
.act { background: #fbdcdc; color: #7f1d1d }
a.button { background: #1d4ed8; color: #fff; text-decoration: none; border-radius: .375rem; padding: .35rem .9rem }
a.quiet { background: none; color: #1d4ed8 }
dl { display: grid; grid-template-columns: 8rem minmax(0, 1fr); gap: .25rem 1rem; margin: .75rem 0 0 }
dt { color: #5b6577 } dd { margin: 0 } ul { margin: 0; padding-left: 1.25rem }
@media (max-width: 34rem) { dl { grid-template-columns: minmax(0, 1fr) } dt { margin-top: .5rem } }
.mail { background: #fff7e0; border: 1px solid #f0dca0; border-radius: .375rem; padding: .5rem .75rem }
.mail { margin-top: .75rem }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Customers and QuickBooks</title>{reload}<style>{style}</style></head>
<body><main>{body}</main></body></html>
"""

_HINTS = {
    "active": ("ok", "connected"),
    "suspect": ("wait", "connected, being checked"),
    "needs_reauth": ("act", "must be reconnected"),
    "disconnected": ("act", "disconnected"),
}
_WHY = {
    "suspect": "the connection is being checked",
    "reauth": "waiting to be reconnected",
    "operator": "stopped by us",
    "disconnected": "disconnected",
}


@dataclass(frozen=True, slots=True)
class Page:
    """An answer to a browser."""

    status: str
    body: str
    content_type: str = "text/html"
    more: tuple[tuple[str, str], ...] = ()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Its headers. No referrer: the callback's address holds a code."""
        usual = [("Content-Type", f"{self.content_type}; charset=utf-8"), ("Cache-Control", "no-store")]
        return [*usual, ("Referrer-Policy", "no-referrer"), *self.more]


def redirect(address: str) -> Page:
    """Return an answer that sends the browser elsewhere."""
    return Page("302 Found", "", more=(("Location", address),))


def message(status: str, text: str, *, reload_after_seconds: int | None = None) -> Page:
    """Return a page with one sentence and the way back."""
    again = f'<meta http-equiv="refresh" content="{reload_after_seconds}">' if reload_after_seconds else ""
    body = f'<article><p>{escape(text)}</p><p><a href="/">All customers</a></p></article>'
    return Page(status, _PAGE.format(reload=again, style=_STYLE, body=body))


def overview(customers: list[dict[str, Any]]) -> str:
    """Return the page of all customers; it is brought up to date every few seconds."""
    body = "<h1>Customers and QuickBooks</h1>" + "".join(map(_customer, customers))
    return _PAGE.format(reload='<meta http-equiv="refresh" content="5">', style=_STYLE, body=body)


def _customer(customer: dict[str, Any]) -> str:
    connection = customer["connection"]
    colour, words = _HINTS[connection["status"]] if connection else ("", "not connected")
    calm = connection is not None and connection["status"] in {"active", "suspect"}
    link = f"/quickbooks/connect/{escape(customer['id'])}"
    button = f'<a class="button{" quiet" if calm else ""}" href="{link}">{"Reconnect" if connection else "Connect"}</a>'
    head = f'<h2>{escape(customer["name"])}</h2><span class="state {colour}">{words}</span>{button}'
    return f"<article><header>{head}</header>{_mail(customer['mail'])}{_details(customer)}</article>"


def _details(customer: dict[str, Any]) -> str:
    connection = customer["connection"]
    if connection is None:
        return ""
    syncs = (f"{each['at']} UTC, {each['kind']}: {each['result']} (run {each['runs']})" for each in customer["syncs"])
    rows = {
        "Syncs": "paused: " + ", ".join(_WHY[hold] for hold in connection["holds"])
        if connection["holds"]
        else "running",
        "Last runs": _lines(syncs),
        "Missed runs": str(connection["missed_runs"] or ""),
        "Events": _lines(f"{each['type']}{_told(each['payload'])}" for each in customer["events"][-6:]),
    }
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items() if value) + "</dl>"


def _mail(letters: list[dict[str, Any]]) -> str:
    return "".join(
        f'<div class="mail">Mail: {escape(each["subject"])}: <a href="{escape(each["link"])}">reconnect</a></div>'
        for each in letters
    )


def _told(payload: dict[str, Any]) -> str:
    """Return the part of an event's payload that a person reads."""
    told = {name: payload[name] for name in ("reason", "missed_runs") if payload.get(name) is not None}
    return "".join(f", {name.replace('_', ' ')}: {value}" for name, value in told.items())


def _lines(lines: Any) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""

"""Calls QuickBooks for a connection. The access token comes from `qbo_refresh`, and stays within a `with` block."""

import os
from typing import Any

import requests

import qbo_refresh

API_URL = os.environ.get("QUICKBOOKS_API_URL", "https://quickbooks.api.intuit.com/v3/company")
_UNAUTHORIZED = 401


class QuickBooksError(Exception):
    """QuickBooks did not answer, or refused. Unlike the errors of `requests` it does not name the URL: a realm id."""


def company(connection: str) -> dict[str, Any]:
    """Return the company's CompanyInfo."""
    found: dict[str, Any] = _get(connection, "companyinfo/{realm_id}")["CompanyInfo"]
    return found


def query(connection: str, statement: str) -> list[dict[str, Any]]:
    """Return the rows that a query of one entity finds."""
    response = _get(connection, "query", query=statement)["QueryResponse"]
    return next((rows for rows in response.values() if isinstance(rows, list)), [])


def _get(connection: str, path: str, **parameters: str) -> dict[str, Any]:
    """Call QuickBooks, and once more with a newer token if it answers 401.

    Raises:
        SyncPaused, TemporarilyUnavailable: As `qbo_refresh.access_token`. Let both pass: SyncTask knows them.
        QuickBooksError: QuickBooks answers with another error, or not at all.
    """
    with qbo_refresh.access_token(connection) as token:
        answer = _send(token, path, parameters)
        if answer.status_code == _UNAUTHORIZED:
            with qbo_refresh.reject(token) as newer:
                answer = _send(newer, path, parameters)
    if not answer.ok:
        raise QuickBooksError(f"QuickBooks answered {answer.status_code}.")
    body: dict[str, Any] = answer.json()
    return body


def _send(token: qbo_refresh.AccessToken, path: str, parameters: dict[str, str]) -> requests.Response:
    realm_id = token.realm_id.reveal()
    url = f"{API_URL}/{realm_id}/{path.format(realm_id=realm_id)}"
    headers = {"Authorization": token.authorization, "Accept": "application/json"}
    try:
        return requests.get(url, params=parameters, headers=headers, timeout=30)
    except requests.RequestException as error:
        raise QuickBooksError(f"QuickBooks cannot be reached: {type(error).__name__}.") from None

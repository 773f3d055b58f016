"""`connect`, `disconnect` and `delete` as processes, with the simulator's consent page between."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.people import consent, follow
from tests.system.conftest import assert_without_secrets
from tests.system.test_cli_operator import CLI, ROOT, ended
from worker.embedded.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.fleet import Fleet


@pytest.fixture
def start(environment: dict[str, str], fleet: Fleet, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give the means to start a `connect` and to read the link that it prints."""
    started: list[subprocess.Popen[str]] = []
    variables = {"PYTHONPATH": ROOT, "INTUIT_AUTHORIZE_URL": fleet.simulator.authorize_url, **environment}

    def begin(*arguments: str, **changes: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*CLI, "connect", "--no-browser", *arguments],
            env=variables | changes,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def link(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("http"):
            return line.strip()
    raise AssertionError("it ended without a link")


def test_a_first_connection_and_a_reconnect_end_to_end(
    fleet: Fleet, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("--external-id", "acme-1", "--label", "Acme")
    back = consent(link(process))
    assert "Intuit's answer has arrived" in follow(back)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    (row,) = fleet.db.execute("SELECT id, label, status FROM qbo.connections").all()
    assert said.strip() == f"Connection {row.id} is connected."
    assert (row.label, row.status) == ("Acme", "active")
    (realm_id,) = parse_qs(urlsplit(back).query)["realmId"]
    fleet.simulator.revoke(realm_id)
    fleet.update(row.id, "status = 'needs_reauth', next_refresh_at = NULL")
    process = start("external:acme-1", "--json")
    follow(consent(link(process), realm_id=realm_id))
    said, _ = process.communicate(timeout=30)
    assert json.loads(said.splitlines()[-1]) == {"connection_id": row.id}
    assert fleet.token(row.id) == fleet.simulator.state(realm_id).refresh_token
    assert fleet.events(row.id) == ["connection.reconnected"]
    assert_without_secrets(said, fleet.simulator)


def test_another_company_is_named_by_label_and_stores_nothing(
    fleet: Fleet, start: Callable[..., subprocess.Popen[str]]
) -> None:
    (connected,) = fleet.connect(label="Acme")
    process = start(str(connected.id))
    follow(consent(link(process)))
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "not 'Acme': choose that one" in said
    assert fleet.row(connected.id).token_version == 1


def test_who_declines_is_not_connected_and_strangers_are_turned_away(
    fleet: Fleet, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("--external-id", "acme-1")
    back = consent(link(process), decision="deny")
    with pytest.raises(HTTPError) as refused:
        follow(re.sub(r"state=[^&]+", "state=another", back))
    refused.value.close()
    follow(back)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said.strip()) == (1, "The person has declined: nothing is connected.")
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.connections").one().n == 0


def test_the_port_is_that_of_the_redirect_url(fleet: Fleet, start: Callable[..., subprocess.Popen[str]]) -> None:
    address = f"http://localhost:{free_port()}/done"
    process = start("--external-id", "acme-1", INTUIT_REDIRECT_URL=address)
    back = consent(link(process))
    assert back.startswith(f"{address}?")
    follow(back)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert fleet.db.execute("SELECT redirect_url FROM qbo.authorizations").one().redirect_url == address


@pytest.mark.parametrize(
    ("arguments", "changes", "sentence"),
    [
        (["--external-id", "x"], {"INTUIT_AUTHORIZE_URL": ""}, "set INTUIT_REDIRECT_URL to http://localhost:8477"),
        (["--external-id", "x"], {"INTUIT_REDIRECT_URL": "https://host.invalid/cb"}, "is not on this machine"),
        (["--external-id", "x", "--wait", "1"], {}, "did not come back within 1 s"),
        ([], {}, "Name one of these"),
        (["7"], {}, "No connection has the id 7"),
        (["external:nobody"], {}, "No connection has the external id"),
    ],
)
def test_what_cannot_be_connected_is_said_in_a_sentence(
    environment: dict[str, str],
    fleet: Fleet,
    tmp_path: Path,
    *,
    arguments: list[str],
    changes: dict[str, str],
    sentence: str,
) -> None:
    variables = environment | {"INTUIT_AUTHORIZE_URL": fleet.simulator.authorize_url} | changes
    done = ended((*CLI, "connect", "--no-browser", *arguments), variables, tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_disconnect_and_delete_from_the_command_line(environment: dict[str, str], fleet: Fleet, tmp_path: Path) -> None:
    first, second = fleet.connect(2)
    fleet.db.execute(
        "INSERT INTO qbo.external_ids VALUES ('a', %(id)s), ('b', %(id)s)",
        {"id": first.id},
    )

    def run(*arguments: str) -> tuple[int, Any]:
        done = ended((*CLI, *arguments), environment, tmp_path)
        return done.returncode, (json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr)

    assert run("disconnect", "external:a", "--external-id", "a") == (
        0,
        f"The external id 'a' has left connection {first.id}, which goes on.\n",
    )
    assert run("disconnect", str(first.id), "--external-id", "a")[0] == 1
    status, shown = run("disconnect", "external:b", "--json")
    assert (status, shown["outcome"], shown["revoked"]) == (0, "disconnected", True)
    assert not fleet.state(first).alive
    assert run("disconnect", "external:b")[0] == 1
    status, said = run("delete", str(second.id))
    assert (status, "say --yes" in said) == (2, True)
    status, shown = run("delete", str(second.id), "--yes", "--json")
    assert (status, shown["connection_id"], shown["events_undelivered"]) == (0, second.id, 2)
    assert not fleet.state(second).alive
    assert run("delete", str(second.id), "--yes")[0] == 2

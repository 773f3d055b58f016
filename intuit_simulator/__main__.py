"""The command `python -m intuit_simulator`; also called as `qbo-refresh simulate`."""

import argparse
import asyncio
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from intuit_simulator.policy import PRESETS, make
from intuit_simulator.process import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET

USAGE_ERROR: Final = 2
_LAST_PORT: Final = 65_535
_EPILOG: Final = f"""\
Secrets are never arguments, which other users of the machine can read:
  SIMULATOR_CLIENTS     clients as id:secret, separated by spaces; the same id twice gives it two valid secrets
  --clients-file FILE   the same, one a line
  Without either there is one client, {DEFAULT_CLIENT_ID}:{DEFAULT_CLIENT_SECRET}.

It listens on the loopback interface only, and ends with Ctrl-C.
"""


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m intuit_simulator") -> int:
    """Run a simulator in the foreground; return the exit status."""
    arguments = _parser(prog).parse_args(argv)
    try:
        from intuit_simulator import server, simulation  # noqa: PLC0415  # aiohttp is an extra
    except ImportError:
        return _complain("the simulator needs aiohttp: pip install 'qbo-refresh-worker[simulator]'")
    try:
        options = _managed_options() if arguments.managed else _options(arguments)
        setup = simulation.Setup(
            policy=make(**options["policy"]), clients=options["clients"], keeps_journal=options["journal"]
        )
        announcing = server.run(
            setup,
            port=options["port"],
            admin_key=options["admin_key"],
            announce=_report if arguments.managed else _Announcement(options, arguments.admin_key_file),
            watches_parent=arguments.managed,
        )
        asyncio.run(announcing)
    except OSError as error:
        # Files are read before it listens, and say so themselves.
        return _complain(f"127.0.0.1 cannot listen at --port {options['port']}: {_why(error)}; choose a free port")
    except ValueError as error:
        return _complain(str(error))
    return 0


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= _LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text} is no port: choose one from 0 (a free one) to {_LAST_PORT}")
    return port


_port.__name__ = "port"  # argparse names it where the text is no number


def _why(error: OSError) -> str:
    """Return the system's words alone; asyncio puts sentences of its own around them."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Simulate Intuit's OAuth 2.0 server: authorize, token, revoke and discovery endpoints.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=_port, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--policy", choices=list(PRESETS), default="strict", help="rotation policy (default: strict)")
    parser.add_argument("--clients-file", type=Path, metavar="FILE", help="client ids and secrets, id:secret a line")
    parser.add_argument(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help="read the admin key from this file, or write a new one to it (default: a new one, printed)",
    )
    parser.add_argument(
        "--journal", action=argparse.BooleanOptionalAction, default=True, help="record the calls (default: yes)"
    )
    parser.add_argument("--managed", action="store_true", help=argparse.SUPPRESS)
    return parser


def _managed_options() -> dict[str, Any]:
    """Read what `process.start` sends. Unbuffered, so that the end of the pipe is left for the server to notice."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(sys.stdin.fileno(), 1)):
        line += byte
    options: dict[str, Any] = json.loads(line)
    return options


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "policy": {"name": arguments.policy},
        "clients": _clients(arguments.clients_file),
        "journal": arguments.journal,
        "port": arguments.port,
        "admin_key": _admin_key(arguments.admin_key_file),
    }


def _clients(file: Path | None) -> Mapping[str, list[str]]:
    words = (_read("--clients-file", file) if file else os.environ.get("SIMULATOR_CLIENTS", "")).split()
    clients: dict[str, list[str]] = {}
    for number, word in enumerate(words, 1):
        client_id, colon, secret = word.partition(":")
        if not colon:
            raise ValueError(f"client {number} is not of the form id:secret")
        clients.setdefault(client_id, []).append(secret)
    return clients or {DEFAULT_CLIENT_ID: [DEFAULT_CLIENT_SECRET]}


def _admin_key(file: Path | None) -> str:
    if file and file.exists():
        key = _read("--admin-key-file", file).strip()
        if not key:
            raise ValueError(f"--admin-key-file {file} is empty: write a key into it, or remove it to have one made")
        return key
    key = secrets.token_urlsafe(24)
    if file:
        try:
            file.touch(mode=0o600)
            file.write_text(key + "\n")
        except OSError as error:
            raise ValueError(
                f"--admin-key-file {file} cannot be written: {_why(error)}; name a file in a directory that is there"
            ) from error
    return key


def _read(option: str, file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise ValueError(f"{option} {file} cannot be read: {_why(error)}; name a file that can be") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {file} is not text: name a file that is") from error


class _Announcement:
    """Tells a person where the simulator is and how to try it."""

    def __init__(self, options: Mapping[str, Any], admin_key_file: Path | None) -> None:
        self._key = options["admin_key"]
        self._file = admin_key_file
        self._client_id = next(iter(options["clients"]))

    def __call__(self, base_url: str) -> None:
        key = f"$(cat {self._file})" if self._file else self._key
        _say(
            f"Simulated Intuit, ends with Ctrl-C.\n"
            f"  token      {base_url}/oauth2/v1/tokens/bearer\n"
            f"  revoke     {base_url}/v2/oauth2/tokens/revoke\n"
            f"  authorize  {base_url}/connect/oauth2\n"
            f"  admin      {base_url}/_simulator/   key: {self._file or self._key}\n\n"
            f"Create a grant, then spend its refresh token:\n"
            f'  curl -X POST -H "Authorization: Bearer {key}" -d \'{{"count": 1}}\' {base_url}/_simulator/grants\n'
            f"  curl -u {self._client_id} -d grant_type=refresh_token -d refresh_token=RT1-... "
            f"{base_url}/oauth2/v1/tokens/bearer\n"
            f"curl asks for the client's secret."
        )


def _report(base_url: str) -> None:
    _say(json.dumps({"base_url": base_url}))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(sentence: str) -> int:
    sys.stderr.write(f"error: {sentence}\n")
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())

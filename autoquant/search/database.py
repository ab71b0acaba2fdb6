"""Databases that hold studies: how they are opened and spoken of, never with a password."""

import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from autoquant.errors import StorageError
from autoquant.search.patience import PatientStorage

__all__ = ["check_url", "describe_loss", "explain_failure", "hide_password", "open_database"]

_CONNECT_S = 10  # a server that cannot be reached would be waited for for minutes
_EXTRA = "pip install 'autoquant[postgres]'"


def check_url(url: str) -> None:
    """Say at once what is wrong with a database's URL; nobody is asked.

    Raises:
        StorageError: no URL, of no known database, or its driver is not installed.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(_name_driver(url)).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise StorageError(f"storage '{hide_password(url)}' needs {error.name}: {_EXTRA}") from None
    except (ArgumentError, ValueError):
        raise StorageError(
            f"--storage '{hide_password(url)}': is no database's URL; write sqlite:///studies.db "
            "or postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from None


@lru_cache(maxsize=8)  # each keeps connections
def open_database(url: str) -> PatientStorage:
    """A database; whatever SQLAlchemy and its drivers raise if it cannot be opened.

    Args:
        url: as it was given.

    Raises:
        StorageError: its driver is not installed.
    """
    named = _name_driver(url)
    # a connection that the server has dropped meanwhile is made again
    options: dict[str, Any] = {"pool_pre_ping": True}
    if named.startswith("postgresql+psycopg:") and "connect_timeout=" not in named:
        options["connect_args"] = {"connect_timeout": _CONNECT_S}
    try:
        return PatientStorage(named, engine_kwargs=options)
    except ModuleNotFoundError as error:
        raise StorageError(f"storage '{hide_password(url)}' needs {error.name}: {_EXTRA}") from None


def _name_driver(url: str) -> str:
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def hide_password(url: str) -> str:
    """A URL as it may be shown: a password may hold an @ or a ? itself, and a query another."""
    shown, _, rest = url.partition("?")
    is_port = re.search(r"//[^:/@]*:\d*/", shown) and "=" in rest.split("@")[0]
    if "@" not in shown and "@" in rest and not is_port:
        shown = url
    return re.sub(r"//([^:/@]*):.*@", r"//\1:***@", shown).split("?")[0]


def explain_failure(url: str, error: Exception) -> str:
    """The last line of what a database says, without the password that it may repeat."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"
    found = re.search(r"//[^:/@]*:(.*)@", url)
    for password in () if found is None or not found[1] else (found[1], unquote(found[1])):
        text = text.replace(password, "***")
    return text


def describe_loss(url: str, error: Exception) -> str:
    """That a database does not answer, and what to do, for those who only look."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return (
        f"storage '{hide_password(url)}' does not answer ({explain_failure(url, cause)}): see "
        "that its server runs and can be reached from here"
    )

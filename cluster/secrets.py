"""Passwords stay where they belong: named by environment variables, put in at the last moment, never shown."""

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

from cluster.errors import UserError

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_PASSWORD = re.compile(r"(://[^:/\s]*):([^/\s]*|(?!\d+/)[^@\s]*)@")  # after a colon, a number and a slash is a port
_QUERY = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)([^&#\s]+)", re.IGNORECASE)


def expanded(uri: str, environment: Mapping[str, str] | None = None) -> str:
    """`uri` with every `$NAME` and `${NAME}` replaced by that environment variable of this process.

    A variable in the place of a password holds it as it is, and is percent-encoded as a URI wants it.
    Everything that is shown or written keeps the names; only what opens a connection expands them. Raises `UserError`
    for a variable that is not set.

    >>> expanded("postgresql://mcb:$DB_PASSWORD@db/mlflow", {"DB_PASSWORD": "secret"})
    'postgresql://mcb:secret@db/mlflow'
    >>> expanded("http://mcb:$PASSWORD@tracking:5000", {"PASSWORD": "a/b"})
    'http://mcb:a%2Fb@tracking:5000'
    """
    known = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not known.get(name):
            raise UserError(f"{uri} names the environment variable {name}, which is not set here: set it")
        is_password = uri[: match.start()].endswith(":") and uri[match.end() :].startswith("@")
        return quote(known[name], safe="") if is_password else known[name]

    return _VARIABLE.sub(value, uri)


def without_password(text: str) -> str:
    """A URI, or any text with URIs in it, as it may be shown; the name of a variable is no password.

    >>> without_password("postgresql://mcb:secret@db/mlflow")
    'postgresql://mcb:***@db/mlflow'
    >>> without_password("postgresql://db/mlflow?user=mcb&password=secret")
    'postgresql://db/mlflow?user=mcb&password=***'
    >>> without_password("no answer from http://mcb:$PASSWORD@tracking:5000")
    'no answer from http://mcb:$PASSWORD@tracking:5000'
    """
    shown = _PASSWORD.sub(lambda match: match[0] if _VARIABLE.fullmatch(match[2]) else f"{match[1]}:***@", text)
    return _QUERY.sub(lambda match: match[0] if _VARIABLE.fullmatch(match[2]) else f"{match[1]}***", shown)


def holds_password(uri: str) -> bool:
    """Whether `uri` holds a password itself, and not the name of a variable that does.

    >>> holds_password("http://mcb:secret@tracking:5000"), holds_password("http://mcb:$PASSWORD@tracking:5000")
    (True, False)
    """
    return without_password(uri) != uri


def is_variable_name(text: str) -> bool:
    """Whether `text` can be the name of an environment variable.

    >>> is_variable_name("AWS_SECRET_ACCESS_KEY"), is_variable_name("wJalr/K7MDENG")
    (True, False)
    """
    return _VARIABLE.fullmatch(f"${text}") is not None

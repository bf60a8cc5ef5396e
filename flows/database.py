"""Database of a Prefect server: what a user's URL names, in the spelling that Prefect needs, and whether it answers.

Prefect takes `postgresql+asyncpg://` and `sqlite+aiosqlite://` (https://docs.prefect.io/v3/api-ref/settings-ref, `connection_url`).
SQLAlchemy hands the parameters of the URL to asyncpg's `connect`, which knows `ssl` and not the `sslmode` of libpq.
"""

import asyncio
from collections.abc import Mapping

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from spnas_core.errors import UserError

DATABASE_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_NAMES = ("DATABASE", DATABASE_VARIABLE, "PREFECT_API_DATABASE_CONNECTION_URL")  # the first that is set counts
_SECRET = (*_NAMES, "PREFECT_SERVER_DATABASE_PASSWORD", "PREFECT_API_DATABASE_PASSWORD", "PGPASSWORD")  # for the server alone
_POSTGRES, _SQLITE = "postgresql+asyncpg", "sqlite+aiosqlite"
_DRIVERS = {"postgres": _POSTGRES, "postgresql": _POSTGRES, _POSTGRES: _POSTGRES, "sqlite": _SQLITE, _SQLITE: _SQLITE}
_PARAMETERS = ("sslmode", "ssl", "host", "port", "passfile")
_PATIENCE = 8.0  # s for the first answer of a database


def database_of(environment: Mapping[str, str]) -> str | None:
    """URL of the database that the environment names, as Prefect needs it; None: Prefect's own SQLite. UserError as `database_url`."""
    return next((database_url(name, value) for name in _NAMES if (value := environment.get(name))), None)


def database_url(name: str, text: str) -> str:
    """URL `text` with the driver that Prefect needs; UserError, without its password, if it is none of PostgreSQL or SQLite."""
    scheme, found, _ = text.partition("://")
    expected = f"{name}: expected postgresql://USER@HOST:PORT/NAME or sqlite:///FILE, got"
    if not found or scheme not in _DRIVERS:
        raise UserError(f"{expected} {f'{scheme}://...' if found else 'no URL'}")
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError) as error:
        raise UserError(f"{expected} a URL that cannot be read (in a user and a password, %3A stands for : and %40 for @)") from error
    if _DRIVERS[scheme] == _POSTGRES:
        if unknown := [one for one in url.query if one not in _PARAMETERS]:
            raise UserError(f"{name}: expected no parameters but {', '.join(_PARAMETERS)}, got {', '.join(unknown)}")
        url = url.set(query={"ssl" if one == "sslmode" else one: value for one, value in url.query.items()})
    return url.set(drivername=_DRIVERS[scheme]).render_as_string(hide_password=False)


def shown_database(database: str) -> str:
    """Where a database is, for a person: without user, password and parameters."""
    url = make_url(database)
    if url.drivername == _SQLITE:
        return f"SQLite {url.database or 'in memory'}"
    host, port, name = url.host or url.query.get("host") or "the default host", url.port or 5432, url.database or url.username
    return f"PostgreSQL {host}:{port}/{name}"


def check_database(database: str) -> None:
    """Connect to a PostgreSQL database as Prefect's server does; UserError, one line, where that fails or takes over `_PATIENCE` s."""
    if make_url(database).drivername == _POSTGRES and (found := asyncio.run(_fault(make_url(database)))):
        raise UserError(f"DATABASE: expected {shown_database(database)} to let us in, got: {found}")


async def _fault(url: URL) -> str:
    """Reason why nobody can connect, "" if one can."""
    engine = create_async_engine(url, connect_args={"timeout": _PATIENCE})
    try:
        async with asyncio.timeout(_PATIENCE), engine.connect():
            return ""
    except TimeoutError:
        return f"no answer within {_PATIENCE:.0f} s"
    except Exception as error:  # noqa: BLE001 - those of asyncpg, with SQLAlchemy's around them or not, of the network and of TLS
        cause = getattr(error, "orig", None) or error
        return " ".join(str(cause).split()).rpartition("'>: ")[2][:200] or type(cause).__name__
    finally:
        await engine.dispose()


def of_server(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that the server alone gets: the URL of its database and passwords."""
    kept = {name: environment[name] for name in _SECRET if name not in _NAMES and name in environment}
    return {**kept, **({DATABASE_VARIABLE: database} if (database := database_of(environment)) else {})}


def of_clients(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave these out: workers, and the jobs that inherit the environment from them, have no business with the database."""
    return {name: value for name, value in environment.items() if name not in _SECRET}

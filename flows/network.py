"""Network of the processes that talk to a Prefect server: no proxy for the loopback, and a server that answers.

Prefect's clients take proxies from the environment (httpx, websockets): HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY in any letter case.
"""

import base64
import functools
import ipaddress
import threading
from collections.abc import MutableMapping
from urllib.parse import urlsplit

import httpx

from spnas_core.errors import UserError
from spnas_core.jobs.progress import log_line

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_REFUSED = "401"
_PATIENCE = 8.0  # s for the first answer of a server that is there


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Except the loopback from the proxies of `environment`, beside the hosts that are excepted there already."""
    given = [value for name, value in environment.items() if name.lower() == "no_proxy"]
    hosts = [_unbracketed(host.strip()) for value in given for host in value.split(",") if host.strip()]
    for host in [host for host in hosts if not _is_host(host)]:
        log_line(f"NO_PROXY: expected names of hosts with commas between them, left out {host!r}")
        hosts.remove(host)
    for name in ("NO_PROXY", "no_proxy"):  # of two, Python takes the latter
        environment[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def prepare_network(environment: MutableMapping[str, str], api: str | None) -> None:
    """Except the loopback from proxies, and remove those that no client can use, where the server at `api` (None: ours) needs none.

    UserError, one line, where it needs one.
    """
    spare_loopback(environment)
    for name in [name for name, value in environment.items() if name.lower() in PROXIES and value]:
        if not (reason := _fault(environment[name])):
            continue
        if api is not None and not _is_loopback(api):
            raise UserError(f"{name}: expected a proxy that can be used, http://HOST:PORT, got one with: {reason}")
        log_line(f"{name} is not used, expected a proxy as http://HOST:PORT: {reason}")
        del environment[name]


def check_server(api: str) -> None:
    """Ask the Prefect server at `api` whether it is well and lets us in; UserError, one line, where not, or no answer within `_PATIENCE` s.

    The question is asked in a thread, since looking up a host's name can take longer than any time limit of a client.
    """
    answers: list[str] = []
    credentials = _credentials()
    thread = threading.Thread(target=lambda: answers.append(_ask(api, credentials)), daemon=True)
    thread.start()
    thread.join(_PATIENCE + 1)
    found = answers[0] if answers else f"no answer within {_PATIENCE:.0f} s"
    if found == _REFUSED:
        got = "one that it refuses" if "Authorization" in credentials else "none"
        raise UserError(f"PREFECT_API_AUTH_STRING: expected USER:PASSWORD of the Prefect server at {_shown(api)}, got {got}")
    if found:
        hint = "start it (make prefect-up), correct PREFECT_API_URL, or unset it for a server of the run's own"
        raise UserError(f"PREFECT_API_URL: expected a Prefect server at {_shown(api)}, got: {found}; {hint}")


def _credentials() -> dict[str, str]:
    """HTTP headers by which Prefect's clients say who they are."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_CLIENT_CUSTOM_HEADERS

    headers = {name.title(): value for name, value in PREFECT_CLIENT_CUSTOM_HEADERS.value().items()}
    if pair := PREFECT_API_AUTH_STRING.value():
        return headers | {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return headers | ({"Authorization": f"Bearer {key}"} if (key := PREFECT_API_KEY.value()) else {})


def _ask(api: str, credentials: dict[str, str]) -> str:
    """Reason why the server is not to be used, "" if it is well."""
    ask = functools.partial(httpx.get, headers=credentials, timeout=_PATIENCE, follow_redirects=True)
    try:
        answer, closed = ask(f"{api.rstrip('/')}/health"), ask(f"{api.rstrip('/')}/admin/version")  # anyone may ask for its health
    except httpx.TimeoutException:
        return f"no answer within {_PATIENCE:.0f} s"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError, OSError) as error:
        return _line(error)
    if 401 in (answer.status_code, closed.status_code):
        return _REFUSED
    if answer.status_code == 403:  # it knows the question, but not us; Prefect has the key
        return ""
    if answer.is_error:
        return f"HTTP status {answer.status_code} of {_shown(api)}/health"
    return "" if answer.text.strip() == "true" else "an answer that is not Prefect's (its address ends in /api)"


def _fault(proxy: str) -> str:
    """Reason why httpx cannot use a proxy, "" if it can."""
    try:
        httpx.Client(proxy=proxy if "://" in proxy else f"http://{proxy}", trust_env=False).close()
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        return _line(error)
    return ""


def _unbracketed(host: str) -> str:
    """IPv6 address as httpx expects it here."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _is_host(host: str) -> bool:
    """Whether httpx can read an entry of NO_PROXY; one that it cannot would break every client."""
    try:
        bare = bool(ipaddress.IPv6Network(host, strict=False))
    except ValueError:
        bare = False
    pattern = host if "://" in host else f"all://[{host}]" if bare else f"all://*{host}"
    try:
        httpx.Client(mounts={pattern: None}, trust_env=False).close()
    except (httpx.InvalidURL, ValueError):
        return False
    return True


def _is_loopback(api: str) -> bool:
    try:
        host = urlsplit(api).hostname or ""
        return host.lower() in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(api: str) -> str:
    """Address without a user and a password."""
    scheme, found, rest = api.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{found}{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

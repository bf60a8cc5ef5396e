"""Prefect servers that cannot be reached, and proxies of the environment: real sockets, processes and servers."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from command_line import SPNAS

from flows import services
from flows.network import check_server, prepare_network, spare_loopback
from spnas_core.errors import UserError

LIMIT = 15.0  # s within which a command says what is wrong
OURS = "127.0.0.1,localhost,::1"


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process, without proxies but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, **variables}


@pytest.fixture
def silent() -> Iterator[int]:
    """Port of a server that accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """Port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Other(BaseHTTPRequestHandler):
    """A server of something else: 200 with a page below /page, else 404."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.startswith("/page") else 404)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(api: str) -> str:
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        check_server(api)
    assert time.monotonic() - begun < LIMIT - 3
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("PREFECT_API_URL: expected a Prefect server at ")
    return str(caught.value)


@pytest.mark.training  # 8 s of patience with a server that is silent
def test_servers_that_are_none(closed: int, silent: int, other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment():
        assert not name.lower().endswith("_proxy")
    monkeypatch.setenv("NO_PROXY", "*")
    assert "refused" in refusal(f"http://127.0.0.1:{closed}/api")
    assert "no answer within 8 s" in refusal(f"http://127.0.0.1:{silent}/api")
    assert "HTTP status 404" in refusal(f"http://127.0.0.1:{other}/api")
    assert "not Prefect's (its address ends in /api)" in refusal(f"http://127.0.0.1:{other}/page")
    for api in (
        "nonsense",
        "localhost:4200/api",
        "http://",
        "ftp://localhost/api",
        "http://127.0.0.1:99999/api",
        "http://no-such-host.invalid/api",
    ):
        refusal(api)
    assert "secret" not in refusal(f"http://me:secret@127.0.0.1:{closed}/api")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, OURS),
        ({"NO_PROXY": "a.example, .b.example"}, f"a.example,.b.example,{OURS}"),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example"}, f"a.example,b.example,{OURS}"),
        ({"No_Proxy": "localhost,x"}, "localhost,x,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, f"*,{OURS}"),
    ],
)
def test_the_loopback_is_excepted_beside_the_users_hosts(given: dict[str, str], expected: str) -> None:
    found = dict(given)
    spare_loopback(found)
    assert found == given | {"NO_PROXY": expected, "no_proxy": expected}
    spare_loopback(found)
    assert found == given | {"NO_PROXY": expected, "no_proxy": expected}


BAD = ["nonsense://x", "http://127.0.0.1:port", "ftp://127.0.0.1:1", "socks5://127.0.0.1:1", "http://[::1", "://"]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "Https_Proxy", "ALL_PROXY"])
def test_proxies_that_no_client_can_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left out for a server of this machine, and told for another one; usable ones stay."""
    for other in [one for one in os.environ if one.lower().endswith("_proxy")]:
        monkeypatch.delenv(other)
    for value in BAD:
        monkeypatch.setenv(name, value)
        for api in (None, "http://127.0.0.1:4200/api", "http://localhost:4200/api", "http://[::1]:4200/api"):
            found = {name: value, "X": "y"}
            prepare_network(found, api)
            assert found == {"X": "y", "NO_PROXY": OURS, "no_proxy": OURS}
        with pytest.raises(UserError, match=rf"^{name}: expected a proxy that can be used, http://HOST:PORT, got one with: .*$"):
            prepare_network({name: value}, "https://prefect.example/api")
    monkeypatch.setenv(name, "http://me:secret@127.0.0.1:1")
    for value in ("http://127.0.0.1:1", "127.0.0.1:1", "http://me:secret@proxy.example:3128", ""):
        found = {name: value}
        prepare_network(found, "https://prefect.example/api")
        assert found[name] == value


def test_hosts_without_a_proxy_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would break every client; addresses in brackets are meant well."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "[::1,[fe80::1],10.0.0.1,10.0.0.0/8,fe80::/10,x:port,http://y.example")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(httpx.InvalidURL):
        httpx.Client()
    spare_loopback(os.environ)
    kept = os.environ["NO_PROXY"].split(",")
    assert {"fe80::1", "10.0.0.1", "10.0.0.0/8", "http://y.example", "127.0.0.1", "localhost", "::1"} <= set(kept)
    for one in kept:
        os.environ["no_proxy"] = one
        httpx.Client().close()
    monkeypatch.setenv("no_proxy", os.environ["NO_PROXY"])
    httpx.Client().close()


@pytest.mark.training
@pytest.mark.parametrize("words", [("run", "smoke"), ("study", "proxy", "smoke")])
@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_command_says_in_one_line_that_there_is_no_server(
    words: tuple[str, ...], kind: str, request: pytest.FixtureRequest, tiny_data: Path, tmp_path: Path
) -> None:
    port = request.getfixturevalue(kind)
    variables = environment(PREFECT_API_URL=f"http://127.0.0.1:{port}/api", PREFECT_HOME=str(tmp_path / "home"))
    command = [*SPNAS, *words, "--data", str(tiny_data), "--store", str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=120)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("spnas: ")]
    assert re.fullmatch(rf"spnas: PREFECT_API_URL: expected a Prefect server at http://127\.0\.0\.1:{port}/api, got: .*", line)
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "store").rglob("manifest.json"))


ASK = """
import os
from flows.cli.local import with_server

def work():
    from prefect import flow
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        assert client.api_healthcheck() is None
    return flow(lambda: 6, name="six")()

print(with_server(work), os.environ["NO_PROXY"])
"""


@pytest.mark.training
@pytest.mark.parametrize("bad", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "nonsense://x"])
@pytest.mark.parametrize("served", [True, False])
def test_a_flow_behind_a_bad_proxy(bad: str, served: bool, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """With a server that is there, and with one of the run's own."""
    variables = environment(http_proxy=bad, HTTPS_PROXY=bad, All_Proxy=bad, NO_PROXY="x.example", PREFECT_HOME=str(tmp_path / "home"))
    if served:
        variables["PREFECT_API_URL"] = request.getfixturevalue("prefect_server")
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=variables, check=False, timeout=240)
    assert done.stdout == f"6 x.example,{OURS}\n", done.stderr


@pytest.mark.training
def test_services_behind_a_bad_proxy(silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server starts, and is deployed to; a port that something holds without answering is taken."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "x.example")
    begun = time.monotonic()
    with pytest.raises(UserError, match=f"port {silent}: expected a free one, but something answers there") as caught:
        services.start_server(tmp_path / "prefect", silent)
    assert time.monotonic() - begun < LIMIT
    assert "\n" not in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = int(server.getsockname()[1])
    try:
        url = services.start_server(tmp_path / "prefect", free)
        services.deploy(tmp_path / "prefect", url)
        found = httpx.post(f"{url}/deployments/filter", json={}, trust_env=False).json()
    finally:
        services.down(tmp_path / "prefect")
    assert {"full", "demo", "run"} <= {one["name"] for one in found}

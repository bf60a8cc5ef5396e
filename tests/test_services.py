"""The Prefect services of one machine, used from the command line as a person does."""

import http.server
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, LogFilter
from prefect.exceptions import PrefectHTTPStatusError
from prefect_client import Host, family, prefect, runs_named, task_runs
from s3_server import download, files_with_key, free_ports, upload

from flows import services
from spnas_core.errors import UserError
from spnas_core.plan import Plan
from spnas_core.stages import read_stage
from spnas_core.store.artifacts import Store

STAGES = ("fine_tune", "serial", "reignite", "parallel", "full_train")


def run_full(url: str, *parameters: str) -> "subprocess.CompletedProcess[str]":
    """`prefect deployment run spnas/full --watch` with parameters."""
    return prefect(url, "deployment", "run", "spnas/full", "--watch", *(word for one in parameters for word in ("-p", one)))


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
def test_five_stages_with_server_worker_and_pool_and_then_all_of_them_cached(prefect_up: str, tiny_data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = ("settings=smoke", f"data={tiny_data}", f"store={store.as_uri()}", "name=deployed")
    first = run_full(prefect_up, *words)
    assert first.returncode == 0, first.stdout + first.stderr
    assert task_runs(first.stdout, "Completed") >= {*STAGES, "evaluate final val"}
    summary = json.loads((store / "runs" / "deployed" / "summary.json").read_text())
    begun = time.monotonic()
    second = run_full(prefect_up, *words)
    assert second.returncode == 0
    assert time.monotonic() - begun < 30
    assert task_runs(second.stdout, "Cached") == set(STAGES)
    assert not task_runs(second.stdout, "Completed")
    assert json.loads((store / "runs" / "deployed" / "summary.json").read_text()) == summary


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
    assert {one.name for one in deployments} == {"full", "demo", "run", "nightly"}
    for deployment in deployments:
        schema = deployment.parameter_openapi_schema
        named = {f"{deployment.name}.{name}": one for name, one in schema["properties"].items()}
        for model, definition in schema.get("definitions", {}).items() if deployment.name != "run" else ():  # no person writes a job
            named |= {f"{deployment.name}.{model}.{name}": one for name, one in definition.get("properties", {}).items()}
        assert [name for name, one in named.items() if not one.get("description")] == []


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(UserError, match=f"port {server.server_port}: expected a free one"):
                services.up(tmp_path, server.server_port)
        finally:
            server.shutdown()
    assert not list(tmp_path.glob("*.pid"))


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

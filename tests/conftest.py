import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from spnas_core.jobs.cpu_variables import instruction_variables

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", "300")
os.environ.pop("PREFECT_API_URL", None)
os.environ.update(instruction_variables())  # for the nets in the tests' own processes
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script: Prefect's workers would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may do other work
settings.load_profile("busy")
FIRST = (
    (
        "test_flow",
        "test_kills",
        "test_services",
        "test_pool",
        "test_pool_worker",
        "test_research",
        "test_overhead",
        "test_cancel",
        "test_refresh",
    ),
    ("test_check", "test_check_layouts", "test_check_yolo"),
    *(
        (name,)
        for name in ("test_claims", "test_worker", "test_cascade", "test_models", "test_s3", "test_recipe", "test_training", "test_convert")
    ),
)  # files that begin, the longest first; of a group, which shares Prefect's server and the finished run or the demo's data, in one process
linux = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
COLOURS = {"red": (200, 40, 40), "blue": (40, 40, 200)}


def write_data(folder: Path, counts: dict[str, int], side: int = 64) -> Path:
    """Write a data set of coloured squares in COCO layout."""
    rng = np.random.default_rng(0)
    categories = [{"id": 3 * k + 1, "name": name} for k, name in enumerate(COLOURS)]
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for split, count in counts.items():
        images, annotations = [], []
        for number in range(count):
            picture = rng.integers(100, 156, (side, side, 3)).astype(np.uint8)
            for k, colour in enumerate(COLOURS.values()):
                x, y = (int(v) for v in rng.integers(0, side - 24, 2))
                w, h = (int(v) for v in rng.integers(14, 24, 2))
                picture[y : y + h, x : x + w] = colour
                box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "category_id": 3 * k + 1}
                annotations.append({"id": len(annotations) + 1, "image_id": number + 1, **box})
            name = f"{split}_{number}.png"
            Image.fromarray(picture).save(folder / "images" / name)
            images.append({"id": number + 1, "file_name": name, "width": side, "height": side})
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files in FIRST begin, then the others that train: so all processes end at about the same time."""
    order = {name: number for number, name in enumerate(name for group in FIRST for name in group)}
    trains = {item.path for item in items if item.get_closest_marker("training")}
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), item.path not in trains))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to the processes, and whole groups of FIRST."""
    from xdist.scheduler import LoadFileScheduling

    class Groups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(super()._split_scope(nodeid)).stem
            return next((group[0] for group in FIRST if file in group), file)

    return Groups(config, log)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images to train on, four to validate, two to test: 64x64 px, two classes."""
    return write_data(tmp_path_factory.mktemp("tiny") / "data", {"train": 8, "val": 4, "test": 2})


@pytest.fixture(scope="session")
def tiny_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many images with masks: 24x24 px, three classes."""
    from masked import masked_set

    return masked_set(tmp_path_factory.mktemp("tiny") / "masks", {"train": 8, "val": 4, "test": 2})


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data, whole."""
    from spnas_core.data.demo import make_demo

    return make_demo(tmp_path_factory.mktemp("demo") / "data")


@pytest.fixture(scope="session")
def small(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few real pictures of the demo's data, not to be changed."""
    from checked import make_small

    return make_small(tmp_path_factory.mktemp("small") / "data", demo_data)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep copies of remote files out of the home folder, and compiled graphs in one place for all processes of this session."""
    cache, graphs = tmp_path_factory.mktemp("cache"), tmp_path_factory.getbasetemp()
    graphs = (graphs.parent if "PYTEST_XDIST_WORKER" in os.environ else graphs) / "graphs"
    graphs.mkdir(exist_ok=True)
    (cache / "graphs").symlink_to(graphs)
    os.environ["SPNAS_CACHE"] = str(cache)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_beside_others() -> None:
    """MindSpore's threads wait in a loop: where several tests run at once, each gets along with one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import mindspore

        mindspore.device_context.cpu.op_tuning.threads_num(1)


@pytest.fixture(scope="session")
def prefect_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the Prefect services that tests start; whatever runs there is stopped in the end."""
    from flows import services

    folder = tmp_path_factory.mktemp("prefect")
    yield folder
    services.down(folder)


@pytest.fixture(scope="session")
def prefect_server(prefect_folder: Path) -> Iterator[str]:
    """URL of the API of one real Prefect server, with a database of its own, for all tests; flows of this process use it."""
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from s3_server import free_ports

    from flows import services

    url = services.start_server(prefect_folder, *free_ports(1))
    with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield url
        EventsWorker.drain_all()


@pytest.fixture(scope="session")
def prefect_up(prefect_folder: Path, s3_url: str, prefect_server: str) -> str:
    """The same with the deployments of this clone and a worker for flows; workers for jobs are up to who needs them."""
    from prefect_client import start_worker

    from flows import services

    services.deploy(prefect_folder, prefect_server)
    start_worker(prefect_folder, prefect_server)
    return prefect_server


@pytest.fixture(scope="session")
def finished(prefect_server: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """The smoke preset, run to its end by real jobs: its plan and its summary. What changes its store takes `finished_copy`."""
    from flows import presets
    from flows.spnas import spnas
    from spnas_core.run.opening import open_plan

    store = tmp_path_factory.mktemp("flow") / "store"
    settings = presets.load_preset("smoke")
    summary = spnas(settings, str(tiny_data), store.as_uri())
    return open_plan(settings, str(tiny_data), store.as_uri()), summary


@pytest.fixture
def finished_copy(finished: tuple[Any, dict[str, Any]], tmp_path: Path) -> Any:
    """The plan of the same run with a store of its own."""
    from spnas_core.run.opening import open_plan

    plan, _ = finished
    store = shutil.copytree(plan.store.local, tmp_path / "finished")
    return open_plan(plan.settings, plan.data.url, store.as_uri())


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real S3 server with one bucket for all tests."""
    from s3_server import serve_bucket

    with serve_bucket(tmp_path_factory.mktemp("s3"), "bucket") as server:
        yield server


@pytest.fixture(scope="session")
def s3_url(s3_server: Any) -> str:
    """URL of the bucket of that server."""
    return "s3://bucket"


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.training)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store: a folder, fsspec's memory, a real S3 server."""
    if request.param == "local":
        return str(tmp_path / "store")
    base = request.getfixturevalue("s3_url") if request.param == "s3" else "memory:/"
    return f"{base}/{uuid.uuid4().hex}"

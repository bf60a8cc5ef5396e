"""What `make bench` prints, and bounds on compiling and on a job's time outside of its steps."""

import json

import mindspore as ms
import pytest

from flows.bench import Timings, measure_jobs, measure_net, nets, print_figures


def test_one_json_line_per_measurement_beside_the_peers(capsys: pytest.CaptureFixture[str]) -> None:
    found = print_figures("net", iter([("build", 0.123456), ("train_step", 2.0)]), 2, {"train_step": 1.6})
    assert found == {"build": 0.123456, "train_step": 2.0}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"net": "net", "what": "build", "seconds": 0.1235, "threads": 2},
        {"net": "net", "what": "train_step", "seconds": 2.0, "threads": 2, "peer": 1.6, "ratio": 1.25},
    ]


def seconds_of(what: str, measured: Timings) -> float:
    """The figure of that name; what comes after it is not measured."""
    return next(seconds for name, seconds in measured if name == what)


@pytest.mark.long
@pytest.mark.parametrize(("net", "bound"), [("demo", 8), ("resnet50_fpn_512", 40)])
def test_seconds_of_compiling_a_training_step(net: str, bound: float) -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    assert seconds_of("train_compile", measure_net(nets()[net], 1)) < bound


@pytest.mark.long
def test_seconds_of_a_job_outside_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 12, where no graphs are kept: also when it is measured again. The next job like it takes a fraction."""
    monkeypatch.setenv("SPNAS_CACHE", "")  # and what it was comes back
    ms.set_context(mode=ms.GRAPH_MODE)
    demo = nets()["demo"]
    step = seconds_of("train_step", measure_net(demo, 5))
    for _ in range(2):
        found = dict(measure_jobs(demo, step, 2))
        assert 2 * found["job_outside_steps_again"] < found["job_outside_steps"] <= 12

"""Fronts of methods: hyper-volumes, and what is said of the recommended net."""

import csv
import io

import pytest

from spnas_core.study.fronts import FrontMethod, FrontOutcome, FrontPoint, TrainedNet, report_fronts, volumes_by_method
from spnas_core.study.report_form import entries_csv

NET = "b_11-21-21-21_0-0-0-0+fpn32+3x3+faster_rcnn"


def trained(test: float, macs: int, latency: float) -> TrainedNet:
    return TrainedNet(net=NET, macs=macs, val=test, test=test, latency_ms=latency, epochs=24)


def outcome(method: FrontMethod, seed: int, *points: tuple[int, float], nets: tuple[TrainedNet, TrainedNet] | None = None) -> FrontOutcome:
    found = tuple(FrontPoint(net=NET, macs=macs, val=test, test=test) for macs, test in points)
    more = {"recommended": nets[0], "reference": nets[1]} if nets else {}
    return FrontOutcome(arch="b_11-21-21-21", artifacts=(), method=method, seed=seed, epochs=48, points=found, **more)


def outcomes(losses: tuple[float, ...]) -> list[FrontOutcome]:
    found = []
    for seed, loss in enumerate(losses):
        found.append(outcome("spnas", seed, (50, 0.4), (100, 0.5), nets=(trained(0.5 - loss, 50, 2.0), trained(0.5, 100, 4.0))))
        found.append(outcome("random", seed, (100, 0.5 - 0.01 * seed)))
        found.append(outcome("stock", seed, (200, 0.5), (300, 0.2)))
    return found


def test_volumes_are_shares_of_the_box_of_a_seed() -> None:
    volumes = volumes_by_method(outcomes((0.0, 0.0)))
    box = 1.1 * 300
    assert volumes["spnas"] == pytest.approx([0.5 * (1 - 100 / box) + 0.4 * 50 / box] * 2)
    assert volumes["random"] == pytest.approx([0.5 * (1 - 100 / box), 0.49 * (1 - 100 / box)])
    assert volumes["stock"] == pytest.approx([0.5 * (1 - 200 / box)] * 2)  # the other is dominated


@pytest.mark.parametrize(("losses", "lossless"), [((0.0, 0.001, -0.001, 0.0, 0.002), True), ((0.0, 0.03, -0.03, 0.02, -0.01), False)])
def test_no_loss_is_claimed_only_where_the_interval_says_so(losses: tuple[float, ...], lossless: bool) -> None:
    report = report_fronts(outcomes(losses))
    assert report.computed["lossless"] is lossless
    assert report.computed["macs"] == [0.5] * 5
    assert report.computed["latency"] == [0.5] * 5
    assert ("no loss" in report.parts[2]) is lossless
    assert ("not shown to be without loss" in report.parts[2]) is not lossless
    assert report.computed["against_stock"]["low"] > 0
    assert len(report.parts[3]) == 6
    assert report.picture.startswith(b"\x89PNG")


def test_the_csv_has_the_recommended_net_where_there_is_one() -> None:
    rows = list(csv.DictReader(io.StringIO(entries_csv(outcomes((0.0, 0.25))))))
    assert [row["method"] for row in rows] == ["spnas", "random", "stock"] * 2
    assert [row["recommended.test"] for row in rows] == ["0.5", "", "", "0.25", "", ""]
    assert "recommended" not in rows[0]

import csv
import html
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from many_trials import make_data as make_many_data
from many_trials import make_many, settings_of
from reported import CHILD, COPIES, HOSTILE, LOG, START, WIDER, Page, guesses, make_data, make_run
from trials import mutate_arch
from typer.testing import CliRunner

from flows.cli.app import app
from spnas_core.arch import parse
from spnas_core.data.splits import open_split
from spnas_core.errors import UserError
from spnas_core.metrics import score_detections
from spnas_core.report import publish_run
from spnas_core.report.ancestry import edits, entries, tree
from spnas_core.report.charts import UNITS, axis
from spnas_core.report.comparisons import comparisons, gains
from spnas_core.report.costs import stage_costs
from spnas_core.report.inputs import collect, reopen
from spnas_core.report.net_drawings import draw_net, stage_rows
from spnas_core.report.page import report_html
from spnas_core.report.quality import judge_detections
from spnas_core.report.tables import trials_csv
from spnas_core.report.val_images import choose
from spnas_core.run.plan import EQUAL, Plan
from spnas_core.run.record import StageRecord
from spnas_core.search.entropy import backbone_entropy
from spnas_core.search.net import net_of
from spnas_core.settings.search import SCORES, CommonObjective, Mutation, Space


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StageRecord]:
    folder = tmp_path_factory.mktemp("made")
    return make_run(folder, make_data(folder / "data"))


@pytest.fixture(scope="module")
def page(made: tuple[Plan, StageRecord]) -> str:
    publish_run(*made)
    return made[0].store.read("runs/mine/report.html").decode()


def test_numbers_are_those_of_trials_csv(made: tuple[Plan, StageRecord], page: str) -> None:
    rows = list(csv.DictReader(made[0].store.read("runs/mine/trials.csv").decode().splitlines()))
    shown = Page(page).trials
    assert len(rows) == len(shown) == 5
    for row, cells in zip(rows, shown, strict=True):
        assert cells["digest"] == row["digest"]
        assert [cells.get(name, "") for name in ("AP", "AP50")] == [row["AP"], row["AP50"]]
        assert row["failure"] or [cells["macs"], cells["params"]] == [row["macs"], row["params"]]
    assert [row["failure"] for row in rows] == ["", "", "diverged", "", ""]
    assert shown[2]["macs"] == str(made[0].cost_of(net_of(rows[2]["arch"], made[0].settings.detector)).macs)


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    found = Page(page)
    ids = Counter(found.all("id"))
    links = [link for link in found.all("href") if not link.startswith("data:image/jpeg;base64,")]
    assert max(ids.values()) == 1
    assert {link for link in links if link != "data:,"} <= {f"#{name}" for name in ids}
    assert not found.all("src")
    assert not re.findall(r"https?://|@import|url\((?!#head\))", page)
    assert len(page) < 300_000
    assert {"result", "search", "trials", "nets", "curves", "quality", "pictures", "cost", "inheritance", "failures", "again"} <= set(ids)
    assert sum(one.startswith("data:image/jpeg") for one in found.all("href")) == 12


def test_a_start_net_at_equal_epochs_stands_in_the_place_of_one_by_the_same_recipe(made: tuple[Plan, StageRecord], page: str) -> None:
    plan, stage = made
    again = stage.model_copy(update={"results": {EQUAL if name == "start" else name: one for name, one in stage.results.items()}})
    other = report_html(collect(plan, again))
    assert [page.count("trained by the same recipe"), page.count("trained at equal epochs")] == [2, 0]
    assert [other.count("trained by the same recipe"), other.count("trained at equal epochs")] == [0, 2]
    assert other.count("against the start net") == page.count("against the start net") > 0
    assert [one.interval for one in comparisons(collect(plan, again))] == [one.interval for one in comparisons(collect(*made))]
    assert all("the start net at equal epochs" in one.words for one in comparisons(collect(plan, again)))


def test_equal_evidence_gives_an_equal_page(made: tuple[Plan, StageRecord], page: str) -> None:
    assert report_html(collect(*made)) == page
    assert report_html(reopen(made[0].store, "mine")) == page


def test_what_users_named_is_text(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", HOSTILE, "<img src=x onerror=alert(3)>{}.jpg")
    text = report_html(collect(*make_run(tmp_path, data)))
    found = Page(text)
    tags = Counter(tag for tag, _ in found.tags)
    assert tags["script"] == 1
    assert tags["img"] == tags["i"] - text.count("<i style=") == 0
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    everything = "".join(found.text)
    for name in (HOSTILE, "<img src=x onerror=alert(3)>val", "Mind <i>this</i>.", LOG):
        assert name in everything


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    plan, stage = make_run(tmp_path, make_data(tmp_path / "data"))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (stored := Path(plan.store.local or "")).joinpath("train", stage.results["start"].digest, "manifest.json").unlink()
    publish_run(plan, stage)
    text = (stored / "runs/mine/report.html").read_text()
    assert "There are none: the data cannot be read" in text
    assert "Kinds of errors" not in text
    assert report_html(reopen(plan.store, "mine", str(tmp_path / "elsewhere"))).count("data:image/jpeg") == 12
    make_data(other := tmp_path / "other", "z")
    with pytest.raises(UserError, match=r"expected the data of the run \(fingerprint [0-9a-f]{12}\), got other data"):
        reopen(plan.store, "mine", str(other))


def test_a_run_that_has_not_ended_is_reported_as_far_as_it_is(made: tuple[Plan, StageRecord], tmp_path: Path) -> None:
    import shutil

    from spnas_core.run.register import announce_run
    from spnas_core.store.artifacts import Store

    announce_run(made[0])
    shutil.copytree(made[0].store.local or "", tmp_path / "store")
    shutil.rmtree(tmp_path / "store/stage" / made[0].keys["full_train"])
    text = report_html(reopen(Store(str(tmp_path / "store")), "mine"))
    assert "that is not finished" in text
    assert len(Page(text).trials) == 1
    assert "How good the final net is" not in text
    shutil.rmtree(tmp_path / "store/stage")
    with pytest.raises(UserError, match=r"run 'mine' of .*: expected at least one finished stage to report, found none"):
        reopen(Store(str(tmp_path / "store")), "mine")


def test_the_command_writes_the_file(made: tuple[Plan, StageRecord], page: str, tmp_path: Path) -> None:
    run, store = CliRunner(), str(made[0].store.local)
    result = run.invoke(app, ["report", "mine", "--store", store, "--out", str(tmp_path / "new" / "mine.html")])
    assert (result.exit_code, result.output) == (0, f"{tmp_path}/new/mine.html, {len(page.encode()) / 1e6:.2f} MB\n")
    assert (tmp_path / "new" / "mine.html").read_text() == page
    assert run.invoke(app, ["report", "mine", "--store", store]).output.startswith(f"{store}/runs/mine/report.html, ")
    wrong = run.invoke(app, ["report", "other", "--store", store])
    assert (wrong.exit_code, wrong.stderr) == (2, f"spnas: store file://{store}: expected one of its runs (mine), got 'other'\n")


def test_edits_say_what_a_child_changed() -> None:
    def words(parent: str, child: str) -> list[tuple[str, str]]:
        return [tuple(edit) for edit in edits(parse(parent), parse(child))]

    assert words(START, WIDER) == [("expand", "1 new block in stage 1")]
    assert words(START, "b_112-1-212-1") == [
        ("swap", "stage 1 ends 1 block later, stage 3 ends 1 block later"),
    ]
    assert words(START, "b_11-21-21-21-1") == [("add stage", "stage 5")]
    assert words(START, "b_11-211-21-211") == [("expand", "1 new block in stage 2, 1 new block in stage 4")]
    assert words(WIDER, COPIES) == [("parallel", "1 beside stage 2, 2 beside stage 4")]
    assert words(START, "r_11-21-21-21") == [("change type", "r blocks for b")]
    assert words(START, "b_12-11-21-21") == [("move double", "the channels double at another block")]
    assert words(START, START) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_every_mutation_has_edits(seed: int, count: int) -> None:
    settings, space = Mutation(num_mutate=count, add_stage=0.2, change_type=0.1, move_double=0.1), Space(block_types=("b", "r"))
    parent = parse(START)
    child = mutate_arch(parent, np.random.default_rng(seed), settings, space)
    kinds = {edit.kind for edit in edits(parent, child)}
    assert kinds
    assert ("change type" in kinds) == (parent.block_type != child.block_type)
    assert ("add stage" in kinds) == (len(child.stages) > len(parent.stages))


def test_the_family_is_a_tree(made: tuple[Plan, StageRecord]) -> None:
    family = entries(collect(*made))
    assert [(depth, one.name, one.state) for depth, one in tree(family)] == [
        (0, "start net", family[0].state), (1, "serial r1 c1", family[1].state), (2, "serial r2 c1", "stopped"),
        (2, "parallel r1 c1", family[4].state), (1, "serial r1 c2", "failed"),
    ]  # fmt: skip
    assert family[1].gain == family[1].trial.score - family[0].trial.score
    assert math.isnan(family[2].gain)
    assert family[4].growth == family[4].cost.macs / family[1].cost.macs - 1


@given(st.sampled_from([START, WIDER, CHILD, COPIES, "r_111-2111-211111-211", "b_11-21-21-21-1-1-1_1-2-3-3-2-1-0"]), st.booleans())
def test_a_drawing_has_a_bar_for_every_block_and_copy(text: str, links: bool) -> None:
    arch = parse(text)
    drawing = draw_net(arch, links=links)
    bars = {kind: path.count("M") for kind, path in drawing.bars.items()}
    assert bars.pop("copy", 0) == sum(copies * len(stage) for copies, stage in zip(arch.parallel, arch.stages, strict=True))
    assert bars == {f"stage{number}": len(stage) for number, stage in enumerate(arch.stages)}
    assert len(drawing.links) >= links * sum(arch.parallel)
    numbers = [list(map(float, re.findall(r"[\d.]+", part))) for path in drawing.bars.values() for part in path.split("M")[1:]]
    assert all(x >= 0 and y >= 0 and x + w <= drawing.width + 0.2 and y + h <= drawing.height + 0.2 for x, y, w, h, _ in numbers)
    assert sum(row.share for row in stage_rows(arch, (128, 128), 16)) == pytest.approx(1.0)


def test_new_blocks_are_told_from_inherited_ones() -> None:
    assert {kind: path.count("M") for kind, path in draw_net(parse("b_11-211-21-211"), parse(START)).bars.items()} == {
        "stage0": 2, "stage1": 2, "stage2": 2, "stage3": 2, "new": 2,
    }  # fmt: skip


@given(st.lists(st.floats(-1e9, 1e9) | st.floats(0, 1) | st.just(math.nan), max_size=9), st.booleans(), st.booleans())
@example([5e-324], False, False)
@example([0.0, 5e-324], False, False)
def test_axes_hold_their_values(values: list[float], zero: bool, whole: bool) -> None:
    found = axis(values, "x", zero=zero, whole=whole)
    assert all(-1e-6 <= found.share(value) <= 100 + 1e-6 for value in values if math.isfinite(value))
    assert 2 <= len(found.ticks) <= 12
    assert [found.ticks[0].share, found.ticks[-1].share] == [0, 100]
    assert len({tick.text for tick in found.ticks}) == len(found.ticks)


def test_the_stages_cost_what_their_jobs_took(made: tuple[Plan, StageRecord]) -> None:
    costs = {one.name: one for one in stage_costs(collect(*made))}
    assert {name: (one.jobs, one.failed, one.epochs, one.seconds) for name, one in costs.items()} == {
        "fine_tune": (1, 0, 3, 11.5), "serial": (2, 1, 6, 23.0), "parallel": (1, 0, 3, 11.5), "full_train": (3, 0, 6, 25.5),
    }  # fmt: skip
    assert (costs["fine_tune"].wall, costs["full_train"].wall, costs["serial"].wall) == (12.0, 30.0, 0.0)
    assert costs["full_train"].phases == {"compile": 4.0, "data": 2.0, "steps": 6.0, "evaluation": 6.5, "other": 7.0}
    assert all(sum(one.phases.values()) == pytest.approx(one.seconds) for one in costs.values())


def test_errors_and_pictures_follow_the_boxes(tmp_path: Path) -> None:
    val = open_split(str(make_data(tmp_path / "data")), "val")
    truth = [{"score": 0.9, **{k: mark[k] for k in ("image_id", "category_id", "bbox")}} for mark in val.annotations["annotations"]]
    perfect = judge_detections(val, truth)
    assert (perfect.ap50, perfect.worst, perfect.confusions) == (1.0, 0.0, ())
    assert {fate.f1 for fate in perfect.fates.values()} == {1.0}
    worse = [dict(one) for one in truth]
    first, names = val.samples[0].image_id, dict(val.categories)
    spoilt = [one for one in worse if one["image_id"] == first]
    spoilt[0]["category_id"] = spoilt[1]["category_id"]  # the first of them is of another class, the last is not found
    worse.remove(spoilt[2])
    found = judge_detections(val, worse)
    assert {error.name: error.times for error in found.errors}["missed"] == 1
    assert found.confusions == ((names[truth[0]["category_id"]], names[spoilt[1]["category_id"]], 1),)
    assert found.fates[first][:3] == (1, 1, 2)
    assert choose(found, val, 0)[1][1][0].image_id == first
    assert [len(group) for _, group in choose(found, val, 0)] == [4, 4, 4]
    nothing = judge_detections(val, [])
    assert (nothing.ap50, nothing.fates[first][:3]) == (0.0, (0, 0, 3))
    assert score_detections(val.annotations, guesses(val, 1)).stats["AP50"] == pytest.approx(
        judge_detections(val, guesses(val, 1)).ap50, abs=1e-12
    )


def test_gains_and_estimates_stand_beside_each_trial(made: tuple[Plan, StageRecord], page: str) -> None:
    """Of a run whose parents were trained on: the estimate is the AP of the table, and the gain has the difference of the two trainings."""
    plan, stage = made
    wider, start = stage.ledger[1], stage.ledger[0]
    believed = replace(wider, controls=(start.digest,), repeats=(stage.ledger[4].digest,), estimate={"AP": 0.123, "AP50": 0.456})
    other = stage.model_copy(update={"ledger": (start, believed, *stage.ledger[2:])})
    inputs = collect(plan, other)
    (gain,) = gains(inputs)
    measured = [score_detections(inputs.val.annotations, inputs.outputs_of(one.digest)).stats["AP"] for one in (wider, start)]
    assert gain.number == 1
    assert gain.interval.mean == pytest.approx(measured[0] - measured[1])
    assert gain.interval.low <= gain.interval.mean <= gain.interval.high
    text = report_html(inputs)
    assert ("gain over its parent" in text, "gain over its parent" in page) == (True, False)
    (row,) = [cells for cells in Page(text).trials if cells["digest"] == wider.digest]
    assert float(row["AP"]) == pytest.approx(0.123)
    assert ", 2 seeds" in text
    table = list(csv.DictReader(trials_csv(other.ledger).splitlines()))
    assert (table[1]["AP"], table[1]["estimate_AP"]) == (str(wider.metrics["AP"]), "0.123")
    serial = next(one for one in stage_costs(inputs) if one.name == "serial")
    assert serial.jobs == next(one for one in stage_costs(collect(plan, stage)) if one.name == "serial").jobs + 2


def test_the_final_net_is_compared_with_the_start_net(page: str, made: tuple[Plan, StageRecord]) -> None:
    (one,) = comparisons(collect(*made))
    assert (one.net, one.split) == ("start", "val")
    assert one.words in html.unescape(page)
    assert ("a tie with" in one.words) is not one.interval.means_something


def test_every_objective_has_a_unit() -> None:
    assert set(UNITS) == {*SCORES, *get_args(CommonObjective)}


def test_second_opinions_stand_beside_each_trial(page: str, many: str) -> None:
    """Trainings of earlier versions tell no gammas; the entropy is of the architecture, and with few candidates nothing is compared."""
    shown = Page(page).trials
    assert [float(row["entropy"]) for row in shown] == [
        backbone_entropy(parse(text)) for text in (START, WIDER, "b_11-211-21-21", CHILD, COPIES)
    ]
    assert not any("gammas" in row or "AP_inherited" in row for row in shown)
    assert "Too few trained candidates to compare second opinions with." in page
    assert "serial.recipe.inherited_batches" in page
    assert many.count("used ") > 5
    assert re.search(r"block \d+ of stage \d: used \d+ % as much as its neighbours", many)
    assert re.search(r"<b>unused</b> block \d+ of stage \d: used \d %", many)
    assert re.search(r"In brackets Kendall's tau over \d+ candidates and its 95 % bootstrap interval; of so few the", html.unescape(many))
    assert all("gammas" in row for row in Page(many).trials if row["AP" if "AP" in row else "digest"] != row["digest"])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Report of a run of 30 trials whose trainings tell the use of their blocks."""
    folder = tmp_path_factory.mktemp("thirty")
    plan = make_many(folder / "store", make_many_data(folder / "data"), settings_of(30))
    return report_html(reopen(plan.store, "many"))

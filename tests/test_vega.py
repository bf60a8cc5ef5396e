"""Pipeline files of Vega's SP-NAS: what each line becomes, and that the settings are those of a run."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.errors import UserError
from spnas_core.settings.run import Run
from spnas_core.settings.training import Recipe
from spnas_core.vega.pipeline import import_vega

run = CliRunner()

# The keys and values of the published files, shortened. First that of the MindSpore models, research/cv/Spnas/src/spnas.yml.
TRAINER = """\
    trainer:
        type: {type}
        epochs: 6
        is_detection_trainer: True
        optimizer: {{type: SGD, params: {{lr: {lr}, momentum: 0.9, weight_decay: !!float 1e-4}}}}
        lr_scheduler:
            type: WarmupScheduler
            by_epoch: False
            params:
                warmup_type: linear
                warmup_iters: 2000
                warmup_ratio: 0.001
                after_scheduler_config:
                    type: MultiStepLR
                    params: {{milestones: {milestones}, gamma: 0.1}}
        metric: {{type: coco, params: {{anno_path: /cache/datasets/COCO2017/annotations/instances_val2017.json}}}}
"""
PARALLEL_REST = """\
    search_space:
        hyperparameters:
            -   {key: network.neck.code, type: CATEGORY, range: [[0, 1, 2, 3]]}
    trainer: {ref: serial.trainer}
    dataset: {ref: serial.dataset}

fullytrain:
    pipe_step: {type: TrainPipeStep}
"""
MINDSPORE = f"""\
general:
    backend: mindspore
    device_category: NPU

pipeline: [serial, parallel, fullytrain]

serial:
    pipe_step: {{type: SearchPipeStep}}
    search_algorithm:
        type: SpNasS
        max_sample: 20
        objective_keys: AP50
    search_space:
        type: SearchSpace
        hyperparameters:
            -   {{key: network.backbone.code, type: CATEGORY, range: ['111-2111-211111-211']}}
    model: {{model_desc: {{type: Faster_Rcnn_MD}}}}
{TRAINER.format(type="SpNasTrainerCallback", lr=0.03, milestones="[10, 20]")}
    dataset:
        type: CocoDataset
        common:
            batch_size: 2
            num_parallel_workers: 8
            flip_ratio: 0.5
            img_width: 1280
            img_height: 768
            device_id: 0
            coco_root: /cache/datasets/COCO2017
            instance_set: annotations/instances_{{}}.json
            num_classes: 81
        train: {{train_data_type: train2017}}
        val: {{val_data_type: val2017, test_batch_size: 2}}

parallel:
    pipe_step: {{type: SearchPipeStep, models_folder: '{{local_base_path}}/output/serial/'}}
    search_algorithm: {{type: SpNasP}}
{PARALLEL_REST}    trainer:
        epochs: 24
        ref: serial.trainer
    dataset: {{ref: serial.dataset}}
"""
# Vega's own, docs/en/algorithms/sp_nas.md and examples/nas/sp_nas/spnas.yml: five stages, PyTorch.
TORCH = f"""\
pipeline: [fine_tune, serial, reignition, parallel, fullytrain]

fine_tune:
    pipe_step: {{type: TrainPipeStep}}
    model:
        pretrained_model_file: /cache/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth
        model_desc: {{type: FasterRCNN, convert_pretrained: True, backbone: {{type: SerialBackbone}}}}
    trainer: {{type: Trainer, epochs: 1, with_train: False}}

serial:
    pipe_step: {{type: SearchPipeStep}}
    search_algorithm:
        type: SpNasS
        max_sample: 20
        objective_keys: ['mAP', 'params']
        max_optimal: 5
        num_mutate: 3
        add_stage_ratio: 0.05
        expend_ratio: 0.3
        max_stages: 6
    search_space:
        hyperparameters:
            -   {{key: network.backbone.code, type: CATEGORY, range: ['111-2111-211111-211']}}
    model:
        pretrained_model_file: '{{local_base_path}}/output/fine_tune/model_0.pth'
        model_desc: {{type: FasterRCNN, freeze_swap_keys: True}}
{TRAINER.format(type="Trainer", lr=0.002, milestones="[3]")}
    dataset:
        type: CocoDataset
        common: {{batch_size: 1, data_root: /cache/datasets/COCO2017, img_prefix: '2017', ann_prefix: instances}}

reignition:
    pipe_step: {{type: TrainPipeStep, models_folder: '{{local_base_path}}/output/serial/'}}
    trainer:
        type: Trainer
        callbacks: ReignitionCallback
        epochs: 30
        optimizer: {{type: SGD, params: {{lr: 0.1, momentum: 0.9}}}}
        lr_scheduler: {{type: CosineAnnealingLR, params: {{warmup_iters: 5}}}}
    dataset: {{type: Imagenet, common: {{data_path: /cache/datasets/ILSVRC, batch_size: 128}}}}

parallel:
    pipe_step: {{type: SearchPipeStep}}
    search_algorithm: {{type: SpNasP, max_sample: 10}}
{PARALLEL_REST}    trainer: {{ref: serial.trainer, epochs: 20}}
    dataset: {{ref: serial.dataset}}
"""
# Vega's first one.
FIRST = """\
general:
    worker: {devices_per_job: -1}
pipeline: [nas1]
nas1:
    pipe_step: {type: SpNasPipeStep}
    search_algorithm:
        type: SpNas
        codec: SpNasCodec
        total_list: '{local_base_path}/output/total_list_s.csv'
        sample_level: 'serial'
        max_sample: 7
        max_optimal: 4
        serial_settings: {num_mutate: 2, addstage_ratio: 0.1, expend_ratio: 0.2, max_stages: 6}
        regnition: False
    search_space: {type: SearchSpace, config_template_file: './nas/sp_nas/faster_rcnn_r50_fpn_1x.py', epoch: 1}
    trainer: {type: Trainer, lazy_built: True, gpus: 8}
nas2:
    search_algorithm: {type: SpNas, sample_level: 'parallel', max_sample: 10, max_optimal: 1, serial_settings: }
    search_space: {epoch: 2}
fullytrain:
    pipe_step: {type: FullyTrainPipeStep}
    trainer: {type: Trainer, epoch: 12, model_desc_file: '{local_base_path}/output/total_list_p.csv'}
"""
FILES = {"mindspore": MINDSPORE, "torch": TORCH, "first": FIRST}


def settings(text: str) -> Run:
    return presets.check_settings(import_vega(text, "spnas.yml").settings, "spnas.yml")


def test_the_file_of_the_mindspore_models() -> None:
    found = settings(MINDSPORE)
    assert found.arch == "r_111-2111-211111-211_0-0-0-0"
    assert found.device_target == "Ascend"
    assert found.objectives == ("AP50",)
    assert (found.serial.rounds, found.serial.candidates) == (4, 5)
    assert found.detector.image_size == (768, 1280)
    assert found.threads == 8
    assert found.parallel.taps == ((0, 1, 2, 3),)
    short = Recipe(epochs=6, batch=2, lr=0.03, weight_decay=1e-4, schedule="step", milestones=(), warmup_steps=2000)
    assert found.serial.recipe == found.parallel.recipe == short
    assert found.full_train == short.model_copy(update={"epochs": 24, "milestones": (0.4167, 0.8333)})
    assert found.fine_tune == found.full_train
    assert found.checkpoint is None


def test_vegas_own_file() -> None:
    found = settings(TORCH)
    assert found.checkpoint == "/cache/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    assert found.objectives == ("AP", "params")
    assert found.serial.max_optimal == 5
    assert found.space.max_stages == 6
    assert found.serial.mutation.model_dump() == {**Run().serial.mutation.model_dump(), "num_mutate": 3, "add_stage": 0.05, "swap": 0.7}
    assert found.serial.recipe.freeze_inherited
    assert not found.full_train.freeze_inherited
    assert found.serial.recipe.milestones == (0.5,)
    assert found.parallel.candidates == 10
    assert found.fine_tune.epochs == 1
    assert found.reignite == Run().reignite.model_copy(update={"data": "/cache/datasets/ILSVRC", "epochs": 30, "batch": 128})


def test_vegas_first_file() -> None:
    found = settings(FIRST)
    assert (found.serial.rounds, found.serial.candidates, found.serial.max_optimal, found.serial.max_reignite) == (7, 1, 4, 0)
    mutation = found.serial.mutation
    assert (mutation.num_mutate, mutation.add_stage, mutation.swap) == (2, 0.1, 0.8)
    assert (found.parallel.candidates, found.parallel.parents) == (10, 1)
    assert (found.serial.recipe.epochs, found.parallel.recipe.epochs, found.full_train.epochs) == (1, 2, 12)
    assert found.devices == tuple(range(8))


@pytest.mark.parametrize("name", FILES)
def test_every_value_has_one_account_at_its_line(name: str) -> None:
    text = FILES[name]
    accounts = [one for one in import_vega(text, name).accounts if one.line]
    lines = text.splitlines()
    for one in accounts:
        assert f"{one.key.split('.')[-1]}:" in lines[one.line - 1]
        assert one.action in ("took", "changed", "dropped")
        assert one.text, one

    def leaves(body: object) -> int:
        return sum(map(leaves, body.values())) if isinstance(body, dict) and body else 1

    assert len(accounts) == len({one.key for one in accounts}) == leaves(yaml.safe_load(text))


def account_of(text: str, key: str) -> tuple[str, str]:
    (one,) = [one for one in import_vega(text, "x").accounts if one.key == key]
    return one.action, one.text


def test_what_is_said() -> None:
    action, text = account_of(TORCH, "serial.search_space.hyperparameters")
    assert action == "changed"
    assert text.startswith(
        "arch: 111-2111-211111-211; `-` ends a stage and halves the resolution, `2` doubles the channels; there, a digit"
    )
    action, text = account_of(TORCH, "serial.search_algorithm.expend_ratio")
    assert text.startswith("serial.mutation.swap: 0.7; expand has the file's number")
    assert "never reached" in account_of(TORCH, "serial.search_algorithm.add_stage_ratio")[1]
    assert account_of(TORCH, "serial.search_algorithm.num_mutate") == ("took", "serial.mutation.num_mutate: 3")
    assert account_of(TORCH, "parallel.trainer.ref") == ("took", "as serial.trainer")
    assert account_of(TORCH, "reignition.trainer.lr_scheduler.params.warmup_iters")[0] == "dropped"
    assert account_of(FIRST, "nas1.search_space.config_template_file")[0] == "dropped"
    assert account_of(MINDSPORE, "serial.recipe.milestones") == ("added", "[10.0, 20.0] are not all within 6 epochs: lr falls at none")
    assert account_of(TORCH, "full_train.milestones") == ("added", "[3.0] are within 20 epochs: lr falls at [0.15]")
    assert account_of(MINDSPORE, "fine_tune")[0] == "added"
    odd = MINDSPORE + "other:\n    a: 1\n"
    assert account_of(odd, "other.a") == ("dropped", "the section is no stage of SP-NAS")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "expected YAML"),
        ("- a", "expected a YAML mapping"),
        ("", "expected a YAML mapping"),
        ("pipeline: [nas]\nnas:\n    search_algorithm: {type: SMNasS}\n", "search_algorithm.type is SpNasS"),
        (MINDSPORE.replace("max_sample: 20", "max_sample: many"), "line 11: serial.search_algorithm.max_sample: expected a value"),
        (MINDSPORE.replace("max_sample: 20", "max_sample: .inf"), "line 11: serial.search_algorithm.max_sample: expected a value"),
        (MINDSPORE.replace("ref: serial.dataset", "ref: nowhere"), "dataset.ref: expected a part of this file, got 'nowhere'"),
        ("a: &a [*a]\nserial: {search_algorithm: {type: SpNasS, x: *a}}", "YAML"),
        ("a: &a {b: 1, c: *a}\nserial: {search_algorithm: {type: SpNasS}}", "YAML"),
        ("a: !!python/object:os.system {}\n", "expected YAML"),
    ],
)
@pytest.mark.training
def test_mistakes_are_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=r"^x\.yml") as caught:
        import_vega(text, "x.yml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


THREE = """\
common:
    trainer: {ref: base.trainer, grad_clip: 7}
base:
    trainer: {epochs: 9, optimizer: {params: {lr: 0.5, momentum: 0.7}}}
serial:
    search_algorithm: {type: SpNasS, max_sample: 4}
    trainer: {ref: common.trainer, epochs: 3}
fullytrain:
    pipe_step: {type: TrainPipeStep}
    trainer: {ref: serial.trainer, optimizer: {params: {lr: 0.25}}}
benchmark:
    pipe_step: {type: BenchmarkPipeStep}
    trainer: {ref: serial.trainer}
    model: {ref: nowhere}
    dataset: {ref: benchmark.dataset}
"""


def test_references_in_turn() -> None:
    """Through sections that are no stages, too; what stands beside a reference overrides it, at any depth."""
    made = import_vega(THREE, "x")
    assert made.settings["serial"]["recipe"] == {"epochs": 3, "clip_norm": 7, "lr": 0.5, "momentum": 0.7}
    assert made.settings["full_train"] == {"epochs": 3, "clip_norm": 7, "lr": 0.25, "momentum": 0.7}
    for key, account in {
        "serial.trainer.ref": ("took", "as common.trainer, which refers to base.trainer"),
        "fullytrain.trainer.ref": ("took", "as serial.trainer, which refers to common.trainer"),
        "common.trainer.ref": ("took", "as base.trainer"),
        "base.trainer.epochs": ("dropped", "the section is no stage of SP-NAS"),  # overridden
        "base.trainer.optimizer.params.lr": ("took", "by a stage that refers to it"),
        "benchmark.trainer.ref": ("dropped", "the section is no stage of SP-NAS"),
        "benchmark.model.ref": ("dropped", "the section is no stage of SP-NAS"),
        "benchmark.dataset.ref": ("dropped", "the section is no stage of SP-NAS"),
    }.items():
        assert account_of(THREE, key) == account, key


def test_references_at_any_level() -> None:
    text = """\
a:
    search_algorithm: {type: SpNasS, max_sample: 4}
    trainer: {epochs: 3, optimizer: {params: {lr: 0.5, momentum: 0.7}}}
    dataset: {common: {batch_size: 4}, train: {ref: a.dataset.common}}
b:
    ref: a
    search_algorithm: {type: SpNasP}
    trainer: {optimizer: {ref: c.trainer.optimizer}}
c:
    pipe_step: {type: TrainPipeStep}
    trainer: {optimizer: {params: {lr: 0.25}}, lr_scheduler: {ref: d.empty}}
    dataset: {ref: a.search_algorithm}
d:
    empty: {}
"""
    made = import_vega(text, "x")
    assert made.settings["parallel"] == {"candidates": 4, "recipe": {"epochs": 3, "lr": 0.25, "momentum": 0.7, "batch": 4}}
    assert account_of(text, "b.ref") == ("took", "as a, which refers to a.dataset.common")
    assert account_of(text, "c.dataset.ref") == ("dropped", "as a.search_algorithm; no setting of this stage comes from there")
    assert account_of(text, "c.trainer.lr_scheduler.ref")[0] == "dropped"


def test_merge_keys_of_yaml() -> None:
    text = (
        "x: &x {epochs: 9, grad_clip: 7}\nserial:\n    search_algorithm: {type: SpNasS}\n    trainer:\n        <<: *x\n        epochs: 3\n"
    )
    assert import_vega(text, "x").settings["serial"]["recipe"] == {"epochs": 3, "clip_norm": 7}
    assert account_of(text, "serial.trainer.epochs") == ("took", "serial.recipe.epochs: 3")


SERIAL = "serial:\n    search_algorithm: {type: SpNasS}\n"
DOUBLING = "".join(f"s{n}: {{a: {{ref: s{n + 1}}}, b: {{ref: s{n + 1}}}}}\n" for n in range(40)) + "s40: {a: 1}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("    trainer: {ref: serial.trainer}\n", "expected a reference that ends, got one that leads to itself: serial.trainer.ref ->"),
        ("    trainer: {ref: serial}\n", "expected a reference that ends"),
        (
            "    trainer: {ref: a.b}\na: {b: {ref: c}}\nc: {d: {ref: serial.trainer}}\n",
            "serial.trainer.ref -> a.b.ref -> c.d.ref -> serial",
        ),
        ("    trainer: {ref: a.b}\na: {b: {ref: a.c}}\n", "line 4: a.b.ref: expected a part of this file, got 'a.c'"),
        ("    trainer: {ref: }\n", "line 3: serial.trainer.ref: expected a part of this file, got None"),
        ("    trainer: {ref: [1]}\n", "expected a part of this file, got [1]"),
        ("    trainer: {ref: serial.search_algorithm.type}\n", "expected a part of this file, got 'serial.search_algorithm.type'"),
        ("    trainer: {ref: s0}\n" + DOUBLING, "expected references for at most 20,000 values"),
        ("    trainer: {ref: s0}\n" + "".join(f"s{n}: {{ref: s{n + 1}}}\n" for n in range(3000)), "expected at most 50 references in turn"),
    ],
)
def test_references_that_lead_nowhere(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        import_vega(SERIAL + text, "x.yml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("x.yml")
    assert "\n" not in str(caught.value)


@given(st.dictionaries(st.sampled_from("abcd"), st.dictionaries(st.sampled_from("abcd"), st.sampled_from("abcd"), max_size=3), max_size=4))
def test_any_references_end(parts: dict[str, dict[str, str]]) -> None:
    """Each section refers to others in several places; it is read, or is one line."""
    sections = {name: {key: {"ref": other} for key, other in refs.items()} for name, refs in parts.items()}
    document = {**sections, "serial": {"search_algorithm": {"type": "SpNasS"}, "trainer": {"ref": "a"}}}
    with contextlib.suppress(UserError):
        assert import_vega(yaml.safe_dump(document), "x").accounts


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 99) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("max_sample", "objective_keys", "num_mutate", "expend_ratio", "add_stage_ratio", "max_optimal", "max_stages", "regnition")


@given(st.dictionaries(st.sampled_from(KEYS), VALUES), VALUES, VALUES)
def test_whatever_stands_in_a_file_is_settings_or_a_mistake(algorithm: dict[str, object], space: object, milestones: object) -> None:
    scheduler = {"params": {"milestones": milestones}}
    document = {"s": {"search_algorithm": {**algorithm, "type": "SpNasS"}, "search_space": {"hyperparameters": space}}}
    document["s"]["trainer"] = {"epochs": 3, "lr_scheduler": scheduler}
    try:
        made = import_vega(yaml.safe_dump(document), "x.yml")
        presets.check_settings(made.settings, "x.yml")
    except UserError:
        return


def test_the_command(tmp_path: Path) -> None:
    source, out = tmp_path / "spnas.yml", tmp_path / "mine.yml"
    source.write_text(TORCH)
    result = run.invoke(app, ["import-vega", str(source), "--out", str(out)])
    assert result.exit_code == 0, result.output
    line = 1 + next(number for number, text in enumerate(TORCH.splitlines()) if "num_mutate" in text)
    assert f"{line:4d}  took     serial.search_algorithm.num_mutate: serial.mutation.num_mutate: 3" in result.stdout.splitlines()
    assert presets.load_preset(str(out)) == settings(TORCH).model_copy(update={"name": "mine"})
    again = run.invoke(app, ["import-vega", str(source), "--out", str(out)])
    assert again.exit_code == 2
    assert "--out: expected a new file" in again.stderr
    machine = run.invoke(app, ["import-vega", str(source), "--out", str(tmp_path / "second.yml"), "--json"])
    assert json.loads(machine.stdout)["settings"]["parallel"]["candidates"] == 10
    wrong = run.invoke(app, ["import-vega", str(tmp_path / "none.yml"), "--out", str(tmp_path / "third.yml")])
    assert wrong.exit_code == 2
    source.write_text(TORCH.replace("'111-2111-211111-211'", "'1113'"))
    wrong = run.invoke(app, ["import-vega", str(source), "--out", str(tmp_path / "third.yml")])
    assert wrong.exit_code == 2
    assert "arch: architecture" in wrong.stderr
    assert not (tmp_path / "third.yml").exists()

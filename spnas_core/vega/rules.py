"""What each key of a Vega pipeline file means here: the settings that it becomes, and where its meaning differs."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

SectionRole = Literal["fine_tune", "serial", "reignite", "parallel", "full_train"]
_Settings = Mapping[str, Any]  # dotted keys of a run's settings; {recipe} stands for the recipe of the section's stage
NOTHING: _Settings = {}
TARGETS = {"NPU": "Ascend", "GPU": "GPU"}
_SCORES = {"mAP": "AP", "AP": "AP", "AP50": "AP50", "params": "params", "flops": "macs", "FLOPs": "macs"}


class Rule(NamedTuple):
    """Keys (``ROLE:KEY``, with ``*``), the settings that a value becomes, and what is to be said; without words it is taken as it is."""

    pattern: str
    settings: Callable[[Any], _Settings]
    text: str = ""


def find_rule(role: str, key: str) -> Rule:
    """First rule for one key of a section."""
    return next(rule for rule in RULES if fnmatchcase(f"{role}:{key}", rule.pattern))


def _as(*keys: str) -> Callable[[Any], _Settings]:
    return lambda value: dict.fromkeys(keys, value)


def _nothing(value: Any) -> _Settings:
    return NOTHING


def _samples(value: Any) -> _Settings:
    """Make as many candidates as there: rounds of at most five."""
    count = max(1, int(value))
    size = max(n for n in range(1, 6) if count % n == 0)
    return {"serial.rounds": count // size, "serial.candidates": size}


def _objectives(value: Any) -> _Settings:
    names = [_SCORES[str(name)] for name in (value if isinstance(value, list) else [value]) if str(name) in _SCORES]
    names = [name for name in names if name.startswith("AP")][:1] + [name for name in names if not name.startswith("AP")]
    return {"objectives": list(dict.fromkeys(names))} if names else NOTHING


def _space(value: Any) -> _Settings:
    found: dict[str, Any] = {}
    for one in value if isinstance(value, list) else []:
        texts = one.get("range") if isinstance(one, dict) else None
        if isinstance(texts, list) and texts and str(one.get("key")).endswith("backbone.code"):
            found["arch"] = str(texts[0])
        if isinstance(texts, list) and texts and str(one.get("key")).endswith("neck.code"):
            found["parallel.taps"] = texts
    return found


def _reignite(value: Any) -> _Settings:
    return NOTHING if value else {"serial.max_reignite": 0}


def _schedule(value: Any) -> _Settings:
    known = {"Multi": "step", "Step": "step", "Cos": "cosine"}
    return next(({"{recipe}.schedule": schedule} for name, schedule in known.items() if str(value).startswith(name)), NOTHING)


def _milestones(value: Any) -> _Settings:
    return {"{recipe}.milestones": [float(one) for one in value]}


ELSEWHERE = "results are found in the store"
FROM_DATA = "read from the data set"
_SPLITS = "splits are found by their usual names (train2017 is train); --set data.splits.train=NAME says another"
DEVICE = "the devices are a setting of the whole run"
_DIGITS = (
    "`-` ends a stage and halves the resolution, `2` doubles the channels; there, a digit was the stride of its block. That is the same "
    "net as long as a `2` stands at the beginning of every stage but the first and nowhere else"
)
ALWAYS = "so it is always"

RULES = (
    Rule("general:backend", _nothing, "it is MindSpore always"),
    Rule("general:device_category", lambda v: {"device_target": TARGETS.get(str(v), "CPU")}),
    Rule("general:parallel_*", _nothing, "candidates are spread over all `devices` of the run always"),
    Rule("general:*", _nothing, "nothing here depends on it"),
    Rule("serial:search_algorithm.max_sample", _samples, "as many candidates, in rounds; the start net is not one of them"),
    Rule("parallel:search_algorithm.max_sample", _as("parallel.candidates")),
    Rule("*:search_algorithm.objective_keys", _objectives, "mAP is called AP here; the first one alone decides the winner"),
    Rule("*:trainer.perfs_cmp_key", _nothing, "`objectives` says it"),
    Rule(
        "serial:search_algorithm.max_optimal",
        _as("serial.max_optimal"),
        "the best by Pareto rank, better ones drawn more often",
    ),
    Rule("parallel:search_algorithm.max_optimal", _as("parallel.parents")),
    Rule("serial:*num_mutate", _as("serial.mutation.num_mutate")),
    Rule(
        "serial:*add*stage_ratio",
        _as("serial.mutation.add_stage"),
        "a probability here; there, adding a stage was never reached: the operation was drawn from 0 and 1, and it was 2",
    ),
    Rule(
        "serial:*expend_ratio",
        lambda v: {"serial.mutation.swap": round(1 - float(v), 6)},
        "expand has the file's number as its probability, and swap has the rest; there, `random() > ratio` drew it in the other cases",
    ),
    Rule("*max_stages", _as("space.max_stages")),
    Rule("serial:*regnition", _reignite, "false: never; true: at most twice, where it is stuck"),
    Rule("serial:*reignite", _reignite, "false: never; true: at most twice, where it is stuck"),
    Rule("*:search_algorithm.type", _nothing, "it says which stage this is"),
    Rule("*:search_algorithm.sample_level", _nothing, "it says which stage this is"),
    Rule("*:search_algorithm.*list", _nothing, "the ledger is in the store"),
    Rule("*:search_algorithm.last_search_result", _nothing, "a search goes on from its ledger in the store by itself"),
    Rule("serial:search_space.hyperparameters", _space, _DIGITS),
    Rule("parallel:search_space.hyperparameters", _space, "merged levels that the outputs of the pyramid read"),
    Rule("*config_template*", _nothing, "a configuration of mmdetection is not read: set `detector` and the recipes by hand"),
    Rule("*:pipe_step.*", _nothing, ELSEWHERE),
    Rule("fine_tune:model.pretrained_model_file", _as("checkpoint"), "torchvision's files are read as they are, without PyTorch"),
    Rule("*:model.pretrained_model_file", _nothing, "candidates inherit the weights of their parents"),
    Rule("*weight_file", _nothing, "weights of parts are not read; give one file of torchvision's: --set checkpoint=URL"),
    Rule("*:model.model_desc.freeze_swap_keys", _as("{recipe}.freeze_inherited")),
    Rule("*:model.model_desc.convert_pretrained", _nothing, ALWAYS),
    Rule("*:model.*num_classes", _nothing, FROM_DATA),
    Rule("*:model.*type", _nothing, "the detector is Faster R-CNN with a pyramid and a searched backbone always"),
    Rule("*:trainer.epochs", _as("{recipe}.epochs")),
    Rule("*:*.epoch", _as("{recipe}.epochs")),
    Rule("*:trainer.with_train", _nothing, "the start net is trained: it is trial 0, which the others are measured by"),
    Rule("*:trainer.optimizer.type", _nothing, "SGD with momentum always"),
    Rule("*:trainer.optimizer.params.lr", _as("{recipe}.lr"), "of one device, as all here; there, on several devices, of all together"),
    Rule("*:trainer.optimizer.params.momentum", _as("{recipe}.momentum")),
    Rule("*:trainer.optimizer.params.weight_decay", _as("{recipe}.weight_decay")),
    Rule("*:trainer.lr_scheduler*milestones", _milestones, "epochs there, parts of the training here"),
    Rule("*:trainer.lr_scheduler*gamma", _nothing, "lr falls to a tenth always"),
    Rule("*:trainer.lr_scheduler*warmup_iters", _as("{recipe}.warmup_steps")),
    Rule("*:trainer.lr_scheduler*.type", _schedule, "a warm-up, and after it `step` or `cosine`"),
    Rule("*:trainer.lr_scheduler*warmup_*", _nothing, "the warm-up is linear, from near 0, always"),
    Rule("*:trainer.lr_scheduler*", _nothing, "warm-up goes by steps and the schedule by parts of the training always"),
    Rule("*:trainer.grad_clip", _as("{recipe}.clip_norm")),
    Rule("*:trainer.metric*anno_path", _nothing, "the split val of DATA is scored"),
    Rule("*:trainer.metric*", _nothing, "COCO's AP always"),
    Rule("*:trainer.gpus", lambda v: {"devices": list(range(int(v)))}, "one candidate on each; there, all trained one net together"),
    Rule("*:trainer.*", _nothing, "nothing here depends on it"),
    Rule("reignite:dataset.*data_path", _as("reignite.data"), "a folder per class below train/ and val/"),
    Rule("reignite:dataset.*data_root", _as("reignite.data"), "a folder per class below train/ and val/"),
    Rule("*:dataset.*test_batch_size", _nothing, "evaluation takes the batch of the training"),
    Rule("*:dataset.*batch_size", _as("{recipe}.batch")),
    Rule("*:dataset.*img_width", _as("detector.image_size.1")),
    Rule("*:dataset.*img_height", _as("detector.image_size.0")),
    Rule("*:dataset.*flip_ratio", lambda v: {"{recipe}.flip": float(v) > 0}, "flip: of every second image, or of none"),
    Rule("*:dataset.*num_parallel_workers", _as("threads")),
    Rule("*:dataset.*root", _nothing, "data is an argument: spnas run ... --data with this folder"),
    Rule(
        "*:dataset.*instance_set",
        _nothing,
        "annotations are found below DATA: annotations/instances_train*.json and instances_val*.json, or other layouts",
    ),
    Rule("*:dataset.*prefix", _nothing, _SPLITS),
    Rule(
        "*:dataset.*data_type",
        _nothing,
        _SPLITS,
    ),
    Rule("*:dataset.*classes", _nothing, FROM_DATA),
    Rule("*:dataset.*keep_ratio", _nothing, ALWAYS),
    Rule("*:dataset.*device_*", _nothing, DEVICE),
    Rule("*:dataset.*rank_id", _nothing, DEVICE),
    Rule("*:dataset.*", _nothing, "nothing here depends on it"),
    Rule("*", _nothing, "spnas has nothing like it"),
)

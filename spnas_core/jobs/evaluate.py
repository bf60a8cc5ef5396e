"""Evaluation of a trained net on a split: of a job's weights, or of a model folder."""

import json
from pathlib import Path
from typing import Any

import mindspore as ms

from spnas_core import arch as architecture
from spnas_core.data.any_set import AnySplit, open_set
from spnas_core.data.fingerprints import check_fingerprint
from spnas_core.data.samples import match_categories
from spnas_core.errors import UserError
from spnas_core.job import EvaluateJob
from spnas_core.jobs import initial_weights
from spnas_core.jobs.progress import JobContext
from spnas_core.jobs.works import work_of
from spnas_core.models.build import build
from spnas_core.models.detector import PyramidNet
from spnas_core.models.ranks import rank
from spnas_core.models.step import get_weights, set_weights
from spnas_core.settings.reading import Reading
from spnas_core.store.artifacts import Store
from spnas_core.weights import adopt, model_folder
from spnas_core.weights.model_folder import Model


def run(job: EvaluateJob, store: Store, out: Path, context: JobContext) -> dict[str, Any]:
    """Score weights on a split, detectors with pycocotools; writes the outputs to `out` and returns the metrics. Has no checkpoints."""
    ms.set_context(mode=ms.GRAPH_MODE)
    named = [job.data.train, job.data.val] if job.split in (job.data.train, job.data.val) else [job.split]  # those of the fingerprint
    work = work_of(job.detector)
    data = work.open_data(job.data, store)
    splits = {name: data.split(name) for name in named}
    split = splits[job.split]
    if rank().first:
        check_fingerprint(list(splits.values()), job.data)
    net = work.build(architecture.parse(job.arch), job.detector, len(split.categories), False)
    set_weights(net, initial_weights.merge_weights(job.weights, store)[1])
    context.report({"event": "compile"})
    outputs = work.outputs(net, split, job.detector, None)
    if not rank().first:
        return {}
    (out / work.outputs_file).write_text(json.dumps(outputs))
    return work.score(split, outputs, "pycocotools").document()


def open_model(model: str) -> tuple[PyramidNet, Model]:
    """Build the net of a model folder (path or URL) with its weights; also returns its `model.json`. UserError for any other folder."""
    card, weights = model_folder.open_model_folder(model)
    ms.set_context(mode=ms.GRAPH_MODE)
    net = build(architecture.parse(card.arch), card.detector, len(card.classes), False)
    try:
        set_weights(net, adopt.load_same(get_weights(net), weights)[0])
    except UserError as error:
        raise UserError(f"model {model}: {error}") from error
    return net.set_train(False), card


def score_model(model: str, data_url: str, name: str, reading: Reading | None = None) -> dict[str, Any]:
    """Metrics of a model folder on a split, of a detector by pycocotools; categories are those of the model, matched by name."""
    net, card = open_model(model)
    split, listed = open_for_model(card, data_url, name, reading)
    return score_listed(card, split, listed, work_of(card.detector).outputs(net, split, card.detector, None))


def open_for_model(card: Model, data_url: str, name: str, reading: Reading | None = None) -> tuple[AnySplit, set[str]]:
    """Open a split with the categories of a model, matched by name; also returns which of them its files list."""
    reading = (reading or Reading()).model_copy(update={"bits": card.bits})
    data = open_set(card.detector.task, data_url, reading)
    names = dict(data.categories(name))  # a converted checkpoint knows but the ids, unless a file named them
    classes = tuple((one.id, names.get(one.id, one.name) if one.name == str(one.id) else one.name) for one in card.classes)
    known = [name for _, name in classes]
    return data.split(name, classes), {known[match] for match in match_categories(list(names.values()), known) if match is not None}


def score_listed(card: Model, split: AnySplit, listed: set[str], outputs: Any) -> dict[str, Any]:
    """Metrics of the outputs of a model on a split, of detectors by pycocotools; of the classes only those `listed`."""
    scores = work_of(card.detector).score(split, outputs, "pycocotools").document()
    return {**scores, "per_class": {kind: one for kind, one in scores["per_class"].items() if kind in listed}}

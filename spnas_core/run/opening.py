"""Opening of a plan: the checks of settings, store, data and checkpoint, with all mistakes of the user at once."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from spnas_core.arch import parse
from spnas_core.data import crops
from spnas_core.data.any_set import AnySplit, open_set
from spnas_core.data.demo import make_demo
from spnas_core.data.fingerprints import fingerprint_splits, verify_images
from spnas_core.data.mask_crops import CROPS_OF_IMAGE
from spnas_core.data.masks.mask_demo import make_mask_demo
from spnas_core.data.masks.mask_facts import verify_masks
from spnas_core.data.samples import Split
from spnas_core.errors import UserError
from spnas_core.job import Data
from spnas_core.jobs.progress import log_line
from spnas_core.run.clocks import clocks_of_run
from spnas_core.run.plan import Counts, Plan
from spnas_core.settings.run import Run
from spnas_core.settings.segmentation import SemanticFpnHead
from spnas_core.settings.task import SEGMENTATION
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import cache_folder, sha256_file
from spnas_core.weights.checkpoint import open_checkpoint, start_from_file
from spnas_core.weights.net_shapes import empty_weights

_T = TypeVar("_T")


class _Tries:
    """Several tries, of which each may find mistakes of the user."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def do(self, work: Callable[[], _T]) -> _T | None:
        """Return what `work` returns, or None where it finds a mistake."""
        try:
            return work()
        except UserError as error:
            self.mistakes += [line for line in str(error).splitlines() if line not in self.mistakes]
            return None

    def end(self) -> None:
        """Raise UserError with all mistakes, a line each, if there is one."""
        if self.mistakes:
            raise UserError("\n".join(self.mistakes))


def open_plan(settings: Run, data_url: str, store_url: str) -> Plan:
    """Check the store, open the data (`demo` is made here) and read its fingerprint; UserError, a line for each thing that is wrong."""
    tries = _Tries()
    store = tries.do(partial(_open_store, store_url))
    if data_url == "demo":
        data_url = str(make_mask_demo(cache_folder("mask-demo")) if settings.work is SEGMENTATION else make_demo(cache_folder("demo")))
    elif "://" not in data_url:
        data_url = str(Path(data_url).expanduser().absolute())
    opened = tries.do(partial(_open_splits, data_url, settings, store, tries)) or {}
    splits, test = {name: opened[name] for name in ("train", "val") if name in opened}, opened.get("test")
    checkpoint = tries.do(partial(open_checkpoint, settings.checkpoint)) if settings.checkpoint else None
    full, threads, own = settings.fingerprint == "full", settings.threads, settings.reignite.data
    images = tries.do(partial(crops.fingerprint_folder, own, full)) if own else None
    classes = len(splits["train"].class_names) if "train" in splits else 0
    clocks = tries.do(partial(clocks_of_run, store, settings, classes)) if store and classes else {}
    tries.end()
    assert store
    fingerprint = fingerprint_splits(list(splits.values()), full, threads)
    data = Data(url=data_url, fingerprint=fingerprint, strict=settings.strict, reading=settings.data)
    scored = data.model_copy(update={"fingerprint": fingerprint_splits([test], full, threads)}) if test else None
    sha256 = sha256_file(checkpoint) if checkpoint else None
    counts = _counts(splits["train"], splits["val"], test, own)
    plan = Plan(settings, store, data, classes, scored, sha256, images, counts, clocks or {})
    if store.find("stage", plan.keys["fine_tune"]) is None:
        for split in splits.values():
            tries.do(partial(verify_images, split, threads) if isinstance(split, Split) else partial(verify_masks, split, threads))
        if settings.checkpoint:
            tries.do(partial(_try_checkpoint, settings, settings.checkpoint, plan.classes))
    tries.end()
    return plan


def _open_splits(url: str, settings: Run, store: Store | None, tries: _Tries) -> dict[str, AnySplit]:
    """Open train, val and, if the data set has one, test; a split that teaches or scores nothing is a mistake."""
    data = open_set(settings.work, url, settings.data, settings.strict, store)
    ways: dict[str, Callable[[], AnySplit | None]] = {name: partial(data.split, name) for name in ("train", "val")} | {"test": data.test}
    splits: dict[str, AnySplit] = {name: split for name, way in ways.items() if (split := tries.do(way))}
    train, val = splits.get("train"), splits.get("val")
    if isinstance(train, Split) and not train.box_counts.sum():
        tries.mistakes.append(f"{url} train: expected boxes to learn, got none{_crowds(train)}")
    if isinstance(val, Split) and val.marks["iscrowd"].all():
        tries.mistakes.append(f"{url} val: expected boxes to score with, got none{_crowds(val)}")
    weights = settings.detector.head.class_weights if isinstance(settings.detector.head, SemanticFpnHead) else ()
    if train and weights and len(weights) != len(train.categories):
        tries.mistakes.append(f"detector.head.class_weights: expected {len(train.categories)} weights, one a class, got {len(weights)}")
    return splits


def _crowds(split: Split) -> str:
    count = int(split.marks["iscrowd"].sum())
    return f" but {count} crowds; --set data.crowds=learn takes them as objects" if count else ""


def _open_store(url: str) -> Store:
    store = Store(url)
    store.writable()
    return store


def _try_checkpoint(settings: Run, url: str, classes: int) -> None:
    """Compare the checkpoint with the start net as its training will, and tell which part of the file it is."""
    arch = parse(settings.arch)
    fresh = empty_weights(arch, settings.detector, classes)
    if peeled := start_from_file(url, arch, settings.detector, fresh, settings.checkpoint_coverage).audit.peeled:
        log_line(f"checkpoint {url}: {peeled}")


def _counts(train: AnySplit, val: AnySplit, test: AnySplit | None, images: str | None) -> Counts:
    boxes = int(train.box_counts.sum()) if isinstance(train, Split) else 0
    squares = boxes if isinstance(train, Split) else CROPS_OF_IMAGE * len(train.samples)
    own = crops.count(images, "train") if images else squares
    return Counts(train=len(train.samples), val=len(val.samples), test=len(test.samples) if test else 0, boxes=boxes, crops=own)

"""Opening of a plan: the checks of settings, store, data and checkpoint, with all mistakes of the user at once."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from spnas_core.data import crops
from spnas_core.data.demo import make_demo
from spnas_core.data.splits import Split, fingerprint_splits, open_split, split_names, verify_images
from spnas_core.errors import UserError
from spnas_core.job import Data
from spnas_core.run.plan import Counts, Plan
from spnas_core.settings.run import Run
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import cache_folder, sha256_file
from spnas_core.weights.checkpoint import open_checkpoint

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
        data_url = str(make_demo(cache_folder("demo")))
    elif "://" not in data_url:
        data_url = str(Path(data_url).expanduser().absolute())
    found = {name: tries.do(partial(open_split, data_url, name, settings.strict)) for name in ("train", "val")}
    splits = {name: split for name, split in found.items() if split}
    if len({split.class_names for split in splits.values()}) > 1:
        names = [splits[name].class_names for name in ("train", "val")]
        tries.mistakes.append(f"{data_url}: expected the same categories in train and val, got {names[0]} and {names[1]}")
    test = tries.do(partial(open_split, data_url, "test", settings.strict)) if splits and "test" in split_names(data_url) else None
    checkpoint = tries.do(partial(open_checkpoint, settings.checkpoint)) if settings.checkpoint else None
    full, threads, own = settings.fingerprint == "full", settings.threads, settings.reignite.data
    images = tries.do(partial(crops.fingerprint_folder, own, full)) if own else None
    tries.end()
    assert store
    data = Data(url=data_url, fingerprint=fingerprint_splits(list(splits.values()), full, threads), strict=settings.strict)
    scored = data.model_copy(update={"fingerprint": fingerprint_splits([test], full, threads)}) if test else None
    sha256 = sha256_file(checkpoint) if checkpoint else None
    counts = _counts(splits["train"], splits["val"], test, own)
    plan = Plan(settings, store, data, len(splits["train"].class_names), scored, sha256, images, counts)
    if store.find("stage", plan.keys["fine_tune"]) is None:
        verify_data(data, threads)
    return plan


@lru_cache(maxsize=8)
def verify_data(data: Data, threads: int) -> None:
    """Read the images of train and val to their ends, once per process; UserError, a line for each split that has a broken image."""
    tries = _Tries()
    for split in (open_split(data.url, name, data.strict) for name in (data.train, data.val)):
        tries.do(partial(verify_images, split, threads))
    tries.end()


def _open_store(url: str) -> Store:
    store = Store(url)
    store.writable()
    return store


def _counts(train: Split, val: Split, test: Split | None, images: str | None) -> Counts:
    boxes = sum(len(sample.boxes) for sample in train.samples)
    own = crops.count(images, "train") if images else boxes
    return Counts(train=len(train.samples), val=len(val.samples), test=len(test.samples) if test else 0, boxes=boxes, crops=own)

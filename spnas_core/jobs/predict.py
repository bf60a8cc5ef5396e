"""Detections in a user's images: per image a picture with boxes and a record, and COCO results for all of them; or their masks."""

import io
import json
import os
from collections import Counter
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from PIL import Image, ImageDraw, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from spnas_core.data import files, images, loader
from spnas_core.data.drawing import draw_box
from spnas_core.data.inputs import find_images
from spnas_core.data.opening import PictureRules
from spnas_core.errors import UserError
from spnas_core.jobs import detection, evaluate
from spnas_core.jobs.predict_batches import picture_batches
from spnas_core.jobs.predict_masks import mask_targets, predict_masks
from spnas_core.settings.task import SEGMENTATION

RECORDS, RESULTS = "detections.json", "results.json"
SOFTWARE = "spnas predict"  # PNG text chunk "Software" of every picture, a keyword of the PNG specification


def predict(model: str, words: list[str], out: str, threshold: float) -> list[dict[str, Any]]:
    """Detect objects with a model folder in the images that `words` name (see `find_images`); or see `predict_masks.py`.

    Files written to the folder `out`, a path or URL:
    - a PNG of each image with its boxes;
    - `detections.json`, the returned records: image, picture and objects, boxes xyxy in px of the displayed image (EXIF orientation
      applied); or image and error, for a broken image;
    - `results.json`, COCO results with the images' names, numbered from 1.

    UserError: no such model, no image found, two images of one name, or a picture's path is taken by a file that no prediction wrote.
    """
    names, out, mark = find_images(words), out.rstrip("/"), PngInfo()
    mark.add_text("Software", SOFTWARE)
    targets = _targets(names, out)
    _check_places(names, list(targets.values()), out)
    net, card = evaluate.open_model(model)
    if card.detector.task is SEGMENTATION:
        masks = mask_targets(targets, out)
        _check_places(names, list(masks.values()), out)
        if both := set(masks.values()) & set(targets.values()):
            raise UserError(f"images: expected none whose picture is in the place of a mask, got {min(both)}")
        return predict_masks(net, card, targets, out, mark)
    categories = {label.id: label.name for label in card.classes}
    records: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for batch, pictures in picture_batches(names, card.detector.image_size, PictureRules(bits=card.bits)):
        detections = detection.infer(net, card.detector, batch.images, batch.image_hw)
        batch_results = loader.to_results(batch.ids, *detections, batch.scale, tuple(categories.items()))
        kept = [result for result in batch_results if result["score"] >= threshold]
        for picture in pictures:
            if picture.pixels is None:
                records.append({"image": picture.name, "error": picture.error})
                continue
            own = [result for result in kept if result["image_id"] == picture.number]
            objects = [_record(result, categories) for result in own]
            target, drawn = targets[picture.name], io.BytesIO()
            draw_boxes(picture.pixels, objects, list(categories.values())).save(drawn, "PNG", pnginfo=mark)
            files.write(target, drawn.getvalue(), "--out")
            records.append({"image": picture.name, "picture": target, "objects": objects})
            results += [{**result, "file_name": picture.name} for result in own]
    files.write(f"{out}/{RECORDS}", json.dumps(records, indent=1).encode(), "--out")
    files.write(f"{out}/{RESULTS}", json.dumps(results).encode(), "--out")
    return records


def _check_places(names: list[str], targets: list[str], out: str) -> None:
    """Raise UserError if a picture would overwrite an input image, or any file that no earlier prediction wrote."""
    if files.kind(*files.open_url(out)) == "file":
        raise UserError(f"--out: expected a folder, got a file: {out}")
    looked_at = {_place(name) for name in names}
    for target in targets:
        if _place(target) in looked_at or not _may_be_drawn_over(target):
            raise UserError(f"--out {out}: expected a folder without {target}, in whose place a picture would be drawn")


def _may_be_drawn_over(url: str) -> bool:
    """Whether no file exists at `url`, or a picture of an earlier prediction, by its text chunk."""
    system, path = files.open_url(url)
    if files.kind(system, path) is None:
        return True
    try:
        with Image.open(io.BytesIO(files.read_file(system, path))) as picture:
            return picture.info.get("Software") == SOFTWARE
    except (UnidentifiedImageError, IsADirectoryError):
        return False


def _place(url: str) -> str:
    """Canonical form of a path or URL, equal for two names of one file."""
    system, path = files.open_url(url)
    return os.path.realpath(path) if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(path))


def _targets(names: list[str], out: str) -> dict[str, str]:
    """Path of each image's picture: STEM.png; if several share this stem, STEM.SUFFIX.png, or below the folders that differ."""
    paths = {name: [part for part in PurePosixPath(name).parts if part not in ("/", "..")] for name in names}
    folders = zip(*(parts[:-1] for parts in paths.values()), strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, folders))
    forms = {name: (Path(name).stem, Path(name).name, "/".join(parts[common:])) for name, parts in paths.items()}
    targets: dict[str, str] = {}
    for number in range(3):
        left = {name: form[number] for name, form in forms.items() if name not in targets}
        counts = Counter(left.values())
        targets |= {name: f"{out}/{form}.png" for name, form in left.items() if counts[form] == 1}
    if len(set(targets.values())) < len(names):
        same = [name for name in names if name not in targets] or names
        raise UserError(f"images: expected names that differ, since each gets a picture in {out}; got {', '.join(same[:3])}")
    return targets


def _record(result: dict[str, Any], categories: dict[int, str]) -> dict[str, Any]:
    x, y, width, height = result["bbox"]
    box = [round(side, 2) for side in (x, y, x + width, y + height)]
    return {"label": categories[result["category_id"]], "score": round(result["score"], 4), "box": box}


def draw_boxes(picture: images.Pixels, objects: list[dict[str, Any]], labels: list[str]) -> Image.Image:
    """Draw boxes and scores on a copy of an image (H, W, 3)."""
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    for item in objects:
        draw_box(pen, item["box"], f"{item['label']} {item['score']:.2f}", labels.index(item["label"]))
    return canvas

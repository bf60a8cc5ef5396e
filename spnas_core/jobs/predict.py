"""Detections in a person's own images: one JSON record and one picture with boxes per image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from spnas_core.data import files, images
from spnas_core.errors import UserError
from spnas_core.jobs import evaluate

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")
RESULTS = "detections.json"


def predict(model: str, names: list[str], out: Path, threshold: float) -> list[dict[str, Any]]:
    """Detect in the images `names` (paths or URLs) with a model folder; boxes are xyxy in px of the image as it is shown.

    Writes `detections.json` and a PNG per image into `out`. UserError: no such model or image, two images of one name.
    """
    targets = {name: out / f"{Path(name).stem}.png" for name in names}
    if len(set(targets.values())) < len(names):
        raise UserError(f"images: expected different file names, since each gets a picture in {out}; got {', '.join(names)}")
    pictures = {name: images.decode(files.local_file(name), name) for name in names}
    net, card = evaluate.open_model(model)
    labels = [one.name for one in card.classes]
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for name, picture in pictures.items():
        padded, hw, scale = images.letterbox(picture, card.detector.image_size)
        inputs = images.normalise(padded, hw)[None], np.array([hw], np.float32)
        boxes, scores, classes = (output[0] for output in evaluate.infer(net, card.detector, *inputs))
        kept = scores >= max(threshold, 1e-6)
        original = (boxes[kept] / np.tile(np.array(scale, np.float32), 2)).round(2).tolist()
        objects = [
            {"label": labels[int(label) - 1], "score": round(float(score), 4), "box": box}
            for label, score, box in zip(classes[kept], scores[kept], original, strict=True)
        ]
        draw(picture, objects, labels).save(targets[name])
        found.append({"image": name, "picture": str(targets[name]), "objects": objects})
    (out / RESULTS).write_text(json.dumps(found, indent=1))
    return found


def draw(picture: images.Pixels, objects: list[dict[str, Any]], labels: list[str]) -> Image.Image:
    """Draw boxes and scores on a copy of an image (H, W, 3)."""
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    for one in objects:
        colour = COLOURS[labels.index(one["label"]) % len(COLOURS)]
        pen.rectangle(one["box"], outline=colour, width=2)
        pen.text((one["box"][0] + 3, one["box"][1] + 1), f"{one['label']} {one['score']:.2f}", fill=colour)
    return canvas

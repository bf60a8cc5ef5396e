"""Classes of all pixels in a user's images: per image a picture with the classes laid over it, a mask, and a record."""

import io
import json
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spnas_core.data import files
from spnas_core.data.images import Pixels
from spnas_core.data.mask_colours import overlay, palette
from spnas_core.data.masks.mask_loader import restore_prediction
from spnas_core.data.opening import PictureRules
from spnas_core.jobs.predict_batches import picture_batches
from spnas_core.jobs.segmentation import score_pixels
from spnas_core.models.detector import PyramidNet
from spnas_core.weights.model_folder import Model

MASK_RECORDS, MASKS = "masks.json", "masks"


def mask_targets(targets: dict[str, str], out: str) -> dict[str, str]:
    """Path of each image's mask: as its picture, below the folder `masks`."""
    return {name: f"{out}/{MASKS}{target.removeprefix(out)}" for name, target in targets.items()}


def predict_masks(net: PyramidNet, card: Model, targets: dict[str, str], out: str, mark: PngInfo) -> list[dict[str, Any]]:
    """Predict the images that `targets` names, and write to the folder `out`; pictures have the text chunk `mark`.

    - the picture of each image with the classes in colours;
    - below `masks/` its mask, at the image's own size (EXIF orientation applied): a palette PNG whose values are the classes' ids;
    - `masks.json`, the returned records: image, picture, mask and the share of each class; or image and error, for a broken image.
    """
    names = [one.name for one in card.classes]
    ids = np.array([one.id for one in card.classes], np.uint8)
    records: list[dict[str, Any]] = []
    masks = mask_targets(targets, out)
    for batch, pictures in picture_batches(list(targets), card.detector.image_size, PictureRules(bits=card.bits)):
        scores = score_pixels(net, card.detector, batch.images, batch.image_hw)
        for row, picture in enumerate(pictures):
            if picture.pixels is None:
                records.append({"image": picture.name, "error": picture.error})
                continue
            height, width = picture.pixels.shape[:2]
            classes = restore_prediction(scores[row], batch.image_hw[row], card.detector.image_size, (height, width))
            drawn = Image.fromarray(overlay(picture.pixels, classes, len(names)))
            files.write(targets[picture.name], _png(drawn, mark), "--out")
            files.write(masks[picture.name], _png(index_image(ids[classes]), mark), "--out")
            counts = np.bincount(classes.ravel(), minlength=len(names)) / classes.size
            shares = {name: round(float(share), 4) for name, share in zip(names, counts, strict=True) if share > 0}
            records.append({"image": picture.name, "picture": targets[picture.name], "mask": masks[picture.name], "classes": shares})
    files.write(f"{out}/{MASK_RECORDS}", json.dumps(records, indent=1).encode(), "--out")
    return records


def index_image(values: Pixels) -> Image.Image:
    """Palette image of values (h, w)."""
    image = Image.fromarray(values)
    image.putpalette(palette(int(values.max()) + 1))
    return image


def _png(image: Image.Image, mark: PngInfo) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=mark)
    return stream.getvalue()

"""A model folder: ``weights.safetensors`` and ``model.json``, which has all that a program needs to use the weights."""

import json
from collections.abc import Sequence
from typing import Any

import safetensors.numpy

from spnas_core.audit import Weights
from spnas_core.config import Detector
from spnas_core.data import files, images
from spnas_core.errors import UserError

WEIGHTS = "weights.safetensors"
MODEL = "model.json"


def model_document(arch: str, settings: Detector, categories: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """Architecture, settings, labels (from 1, in the order of `categories`: id and name) and preprocessing."""
    return {
        "arch": arch,
        "detector": settings.model_dump(mode="json"),
        "classes": [{"label": label, "id": number, "name": name} for label, (number, name) in enumerate(categories, start=1)],
        "preprocessing": {
            "image_size": list(settings.image_size),
            "resize": "bilinear, aspect ratio kept, top left, the rest zero after normalisation",
            "range": "RGB / 255, minus mean, divided by std",
            "mean": images.MEAN.tolist(),
            "std": images.STD.tolist(),
        },
    }


def write_files(url: str, contents: dict[str, bytes]) -> None:
    """Write files into a folder (a path or any fsspec URL), in their order; the folder is made. UserError where that is not possible."""
    system, root = files.open_url(url)
    try:
        system.makedirs(root, exist_ok=True)
        for name, content in contents.items():
            system.pipe_file(files.join(root, name), content)
    except OSError as error:
        raise UserError(f"{url}: expected a place to write to, got: {error.strerror or error}") from error


def write_model(url: str, weights: Weights, document: dict[str, Any]) -> None:
    """Write a model folder, `model.json` last."""
    write_files(url, {WEIGHTS: safetensors.numpy.save(weights), MODEL: json.dumps(document, indent=1).encode()})

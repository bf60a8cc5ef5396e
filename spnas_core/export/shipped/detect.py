"""Find objects in images with the model in this folder.

    python detect.py IMAGE... [--threshold 0.5]

prints one JSON record per image; `Detector(folder)(image)` gives the same to a program. Needs numpy, pillow, and what runs the model:
onnxruntime for model.onnx, openvino for model.xml, mindspore for model.mindir, torch, torchvision and safetensors for weights.safetensors,
onnxruntime for trunk.onnx, or Ascend's ais_bench for trunk.om.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Array = npt.NDArray[Any]
Run = Callable[
    [Array, Array], tuple[Any, ...]
]  # (B, 3, H, W), (B, 2) to boxes (D, 4), scores (D,) and labels (D,) of each image, for example


class Detector:
    """The model of one folder: an image in, its objects out."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.card = json.loads((folder / "model.json").read_text())
        self.run = open_network(folder)

    def __call__(self, image: Image.Image, threshold: float = 0.0) -> list[dict[str, Any]]:
        """Objects with at least this score, the best one first: label, category id, score, and box x1, y1, x2, y2 in px of the image."""
        images, image_hw, scale = network_input(image, self.card["preprocessing"])
        boxes, scores, labels = (output[0] for output in self.run(images, image_hw))
        if self.card["detector"]["soft_nms"]:
            boxes, scores, labels = soft_nms(boxes, scores, labels, self.card["detector"])
        classes = [self.card["classes"][label - 1] for label in labels]
        found = zip(classes, scores.tolist(), np.round(boxes / scale, 3).tolist(), labels, strict=True)
        return [
            {"label": one["name"], "id": one["id"], "score": score, "box": box}
            for one, score, box, label in found
            if label > 0 and score >= threshold
        ]


def open_network(folder: Path) -> Run:
    """Open the network of a folder in what runs it."""
    openers = {
        "model.onnx": open_onnx,
        "model.xml": open_openvino,
        "model.mindir": open_mindir,
        "weights.safetensors": open_torch,
        "trunk.onnx": open_parts,
    }
    name = next(name for name in openers if (folder / name).exists())
    return openers[name](folder / name)


def open_onnx(path: Path) -> Run:
    """Open the network in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    names = [one.name for one in session.get_inputs()]
    return lambda images, image_hw: tuple(session.run(None, chosen(names, images, image_hw)))


def open_openvino(path: Path) -> Run:
    """Open the network in OpenVINO, for single images; in float32, where it would compute in bfloat16 on processors that can."""
    openvino = import_openvino()
    how = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    held = {name: os.environ.pop(name) for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if name in os.environ}  # for MindSpore
    try:  # held to AVX2, OpenVINO 2026.4 crashes on a processor with AVX-512
        net = openvino.Core().compile_model(path, "CPU", how)
    finally:
        os.environ.update(held)

    names = [one.any_name for one in net.inputs]

    def run(images: Array, image_hw: Array) -> tuple[Any, ...]:
        found = net(chosen(names, images, image_hw))
        return tuple(found[one] for one in net.outputs)

    return run


def chosen(names: list[str], images: Array, image_hw: Array) -> dict[str, Array]:
    """Give the inputs that a network has."""
    return {name: array for name, array in (("images", images), ("image_hw", image_hw)) if name in names}


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which on import sends Google Analytics a message from a fork of this process."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed, which OpenVINO allows
    return import_module("openvino")


def open_mindir(path: Path) -> Run:
    """Open the network in MindSpore; it takes one image at a time."""
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")  # with AVX-512, MindSpore 2.9 and later convolve 60 times slower on the CPU
    import mindspore

    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    net = mindspore.nn.GraphCell(mindspore.load(str(path)))
    return lambda images, image_hw: tuple(one.asnumpy() for one in net(mindspore.Tensor(images), mindspore.Tensor(image_hw)))


def open_torch(path: Path) -> Run:
    """Open the network in torchvision, whose own preparation of images is left out."""
    import torch
    from torchvision.models.detection.image_list import ImageList

    model = beside("net").build(path.parent)

    def run(images: Array, image_hw: Array) -> tuple[Any, Any, Any]:
        batch = ImageList(torch.from_numpy(images), [(int(height), int(width)) for height, width in image_hw])
        with torch.inference_mode():
            features = model.backbone(batch.tensors)
            if hasattr(model, "rpn"):
                found, _ = model.roi_heads(features, model.rpn(batch, features)[0], batch.image_sizes)
            else:
                found = one_stage(batch, list(features.values()))
        boxes, scores, labels = ([one[name].numpy() for one in found] for name in ("boxes", "scores", "labels"))
        return boxes, scores, labels if hasattr(model, "rpn") else [one + 1 for one in labels]

    def one_stage(batch: Any, maps: list[Any]) -> Any:
        places = model.anchor_generator(batch, maps)
        counts = [one.shape[-2] * one.shape[-1] * places[0].shape[0] // sum(m.shape[-2] * m.shape[-1] for m in maps) for one in maps]
        outputs = {name: value.split(counts, 1) for name, value in model.head(maps).items()}
        return model.postprocess_detections(outputs, [list(one.split(counts)) for one in places], batch.image_sizes)

    return run


def open_parts(path: Path) -> Run:
    """Open the networks of a folder that has several."""
    parts, card = beside("parts"), json.loads((path.parent / "model.json").read_text())
    if "levels" not in card:  # of segmentation: nothing runs after the first network
        trunk = parts.open_part(path.parent, "trunk")
        return lambda images, _image_hw: tuple(trunk(images))
    run: Run = parts.Parts(path.parent, card)
    return run


def beside(name: str) -> Any:
    """Import the module `name` of this folder."""
    return import_module(f"{__package__}.{name}" if __package__ else name)


def network_input(image: Image.Image, how: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Prepare an image as the network takes it: (1, 3, H, W), its valid height and width (1, 2), and network px per px of the image (4,).

    It is turned as its EXIF data say, resized to fit (bilinear, its aspect ratio kept), put top left, normalised, and zero beyond.
    """
    image = rgb(image)
    height, width = how["image_size"]
    ratio = min(height / image.height, width / image.width)
    h, w = max(1, round(image.height * ratio)), max(1, round(image.width * ratio))
    scale = np.array([w / image.width, h / image.height] * 2)
    if (w, h) != image.size:
        image = image.resize((w, h), Image.Resampling.BILINEAR, reducing_gap=3.0)
    images = np.zeros((1, 3, height, width), np.float32)
    images[0, :, :h, :w] = ((np.asarray(image) / 255 - how["mean"]) / how["std"]).transpose(2, 0, 1)
    return images, np.array([[h, w]], np.float32), scale


def rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB, turned as its EXIF data say; of 16 bits the upper 8 stay."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def soft_nms(boxes: Array, scores: Array, labels: Array, settings: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Soft-NMS (Bodla et al., ICCV 2017) of boxes (N, 4), scores (N,) and labels (N,): each box lowers the scores of those it overlaps.

    Linear: by their IoU where it is at least `box_nms`; gaussian: by exp(-IoU^2 / `soft_nms_sigma`).
    """
    x1, y1, x2, y2 = boxes.T.astype(np.float64)
    area, left = (x2 - x1) * (y2 - y1), scores.astype(np.float64)
    rows, lowered = [], []
    for _ in range(min(settings["detections"], len(left))):
        best = int(left.argmax())
        if left[best] <= settings["score_threshold"]:
            break
        rows.append(best)
        lowered.append(left[best])
        width, height = np.minimum(x2, x2[best]) - np.maximum(x1, x1[best]), np.minimum(y2, y2[best]) - np.maximum(y1, y1[best])
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        iou = np.where(labels == labels[best], inter / np.maximum(area + area[best] - inter, 1e-12), 0.0)
        if settings["soft_nms"] == "linear":
            left *= np.where(iou >= settings["box_nms"], 1 - iou, 1.0)
        else:
            left *= np.exp(-(iou**2) / settings["soft_nms_sigma"])
        left[best] = 0.0
    return boxes[rows], np.array(lowered, np.float32), labels[rows]


def main() -> None:
    """Print a JSON record per image."""
    parser = argparse.ArgumentParser(description="Find objects in images with the model in this folder.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of an object")
    given = parser.parse_args()
    detector = Detector(Path(__file__).parent)
    for name in given.images:
        try:
            with Image.open(name) as image:
                print(json.dumps({"image": name, "objects": detector(image, given.threshold)}))
        except OSError as error:
            parser.exit(1, f"{name}: expected an image, got: {error}\n")


if __name__ == "__main__":
    main()

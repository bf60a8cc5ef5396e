"""Give every pixel of images a class with the model in this folder.

    python segment.py IMAGE... [--out masks]

writes a palette PNG per image, of its own size, whose values are the ids of the classes, and prints one JSON record per image with the
share of each class; `Segmenter(folder)(image)` gives the ids (h, w) to a program. Needs numpy, pillow, and what runs the model: onnxruntime
for model.onnx, openvino for model.xml, mindspore for model.mindir. `detect.py`, beside this file, opens the model and prepares images.
"""

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
opening = import_module(f"{__package__}.detect" if __package__ else "detect")


class Segmenter:
    """The model of one folder: an image in, the ids of its pixels' classes out."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.card = json.loads((folder / "model.json").read_text())
        self.run = opening.open_network(folder)
        self.names = {one["id"]: one["name"] for one in self.card["classes"]}

    def __call__(self, image: Image.Image) -> Array:
        """Ids (h, w), uint8, of the image after its EXIF rotation."""
        how = self.card["preprocessing"]
        images, image_hw, _ = opening.network_input(image, how)
        own = opening.rgb(image).size
        (scores,) = self.run(images, image_hw)
        ids = np.array([one["id"] for one in self.card["classes"]], np.uint8)
        return ids[best_classes(np.asarray(scores)[0], image_hw[0], how["image_size"], own)]


def best_classes(scores: Array, image_hw: Array, size: list[int], own: tuple[int, int]) -> Array:
    """Channel (h, w) with the highest score, of scores (K, H', W') of the network's input of `size` px; `own`: width and height, px.

    The part of the scores that the image fills, `image_hw` px of the input, is resized bilinearly to the image's own size.
    """
    height, width = scores.shape[1:]
    box = (0.0, 0.0, float(image_hw[1]) * width / size[1], float(image_hw[0]) * height / size[0])
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(own, Image.Resampling.BILINEAR, box=box))
        for plane in scores
    ]
    return np.asarray(np.argmax(np.stack(planes), axis=0))


def main() -> None:
    """Write a mask and print a JSON record per image."""
    parser = argparse.ArgumentParser(description="Give every pixel of images a class with the model in this folder.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file")
    parser.add_argument("--out", default="masks", help="folder for the masks")
    given = parser.parse_args()
    segmenter, out = Segmenter(Path(__file__).parent), Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in given.images:
        try:
            with Image.open(name) as image:
                ids = segmenter(image)
        except OSError as error:
            parser.exit(1, f"{name}: expected an image, got: {error}\n")
        mask = Image.fromarray(ids.astype(np.uint8))
        mask.putpalette([channel for number in range(256) for channel in colour(number)])
        target = out / f"{Path(name).stem}.png"
        mask.save(target)
        shares = {
            segmenter.names[one]: round(float(count) / ids.size, 4) for one, count in zip(*np.unique(ids, return_counts=True), strict=True)
        }
        print(json.dumps({"image": name, "mask": str(target), "classes": shares}))


def colour(number: int) -> list[int]:
    """Colour of a class, as Pascal VOC's development kit has it."""
    return [sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)]


if __name__ == "__main__":
    main()

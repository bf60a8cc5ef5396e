"""Model card, the README.md of an exported folder: the model, its scores, its inputs and outputs, and how to run it."""

from collections.abc import Iterable
from typing import Any

from spnas_core.cost import Cost

_TITLES = {
    "onnx": "ONNX",
    "openvino": "OpenVINO's IR",
    "om": "ONNX graphs for Ascend's compiler ATC",
    "mindir": "MindSpore's MindIR",
    "torchvision": "a PyTorch module of torchvision's parts",
}
_NETWORKS = {
    "onnx": "`model.onnx`: the network, opset 17, for any number of images at once",
    "openvino": "`model.xml` and `model.bin`: the network, for any number of images at once",
    "om": "`trunk.onnx`{heads}: the parts of the network that ATC compiles, for one image, opset 17; `atc.sh`: the commands "
    "for the SoC {soc}; `trunk.om` (...): what they make; `parts.py`: what runs between the parts, in numpy",
    "mindir": "`model.mindir`: the network, for one image at a time",
    "torchvision": "`weights.safetensors`: the state dict; `net.py`: torchvision's `{theirs}` on this backbone, which takes it",
}
_HEADS = {
    "faster_rcnn": ("Faster R-CNN", "FasterRCNN"),
    "cascade_rcnn": ("Cascade R-CNN", "FasterRCNN"),
    "retinanet": ("RetinaNet", "RetinaNet"),
    "fcos": ("FCOS", "FCOS"),
}  # what a head makes, here and in torchvision
_COLUMNS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def readme(form: str, document: dict[str, Any], cost: Cost) -> str:
    """Text of the card, in Markdown, of an exported `model.json` document."""
    title, theirs = _HEADS[document["detector"]["head"]["kind"]]
    heads = ", `head0.onnx` (...)" if theirs == "FasterRCNN" else ""
    files = (
        _NETWORKS[form].format(**document, theirs=theirs, heads=heads),
        "`model.json`: architecture, settings, classes, preprocessing, scores",
        "`detect.py`: from image to objects",
    )
    sections = {
        "Classes": _table(("label", "category id", "name"), ((one["label"], one["id"], one["name"]) for one in document["classes"])),
        "Scores": _scores(document["scores"]),
        "Input": _input(document, "1" if form == "mindir" else "batch"),
        "Output": _output(form, document),
        "Run it": _RUN.format(packages=_PACKAGES[form]) + {"torchvision": _TRAIN, "om": _DEVICE}.get(form, ""),
        "Files": "\n".join(f"- {line}" for line in files),
    }
    head = (
        f"# Object detector `{document['arch']}`\n\n"
        f"{title} with a feature pyramid, as {_TITLES[form]}, exported by spnas, which searched its backbone (SP-NAS, CVPR 2020). "
        f"{cost.params:,} parameters, {cost.macs / 1e9:.2f} GMACs an image.{_origin(document)}{_precision(document)}"
    )
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _origin(document: dict[str, Any]) -> str:
    """Training and data of the model, as far as they are known."""
    known = {"training": "train_artifact", "data": "data_fingerprint", "weights": "source_sha256"}
    parts = [f"{what} `{document[key][:12]}`" for what, key in known.items() if document.get(key)]
    return f" Digests of its origin: {', '.join(parts)}." if parts else ""


def _precision(document: dict[str, Any]) -> str:
    """Say how a network in INT8 was made; empty for one in float32."""
    if not (made := document.get("int8")):
        return ""
    return (
        f" In INT8: convolutions and dense layers, their ranges from {made['images']} images of the split {made['split']}; the scores "
        "below are those of the network in float32, and `spnas eval` compares both."
    )


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = [tuple(map(str, line)) for line in (head, *rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _scores(scores: dict[str, Any]) -> str:
    if not scores:
        return "None are known."

    def cell(value: float) -> str:
        return f"{100 * value:.1f}" if value >= 0 else "-"

    splits = _table(("split", *_COLUMNS), ((name, *(cell(one.get(c, -1)) for c in _COLUMNS)) for name, one in scores.items()))
    classes = _table(
        ("split", "class", "AP", "AP50"),
        ((name, k, cell(v["AP"]), cell(v["AP50"])) for name, one in scores.items() for k, v in one.get("per_class", {}).items()),
    )
    return f"Per cent, COCO definition.\n\n{splits}\n\n{classes}"


def _input(document: dict[str, Any], batch: str) -> str:
    how = document["preprocessing"]
    height, width = how["image_size"]
    mean, std = (", ".join(f"{value:.3f}" for value in how[name]) for name in ("mean", "std"))
    return (
        "This is what `detect.py` makes of an image file, and what its `Detector.run` takes:\n\n"
        f"- `images`, float32 ({batch}, 3, {height}, {width}): RGB, turned as the EXIF data say, resized to fit {height} rows and {width} "
        "columns (bilinear, antialiased, aspect ratio kept), in the upper left corner; values / 255, minus the mean "
        f"({mean}), divided by the standard deviation ({std}); 0 in what is left.\n"
        f"- `image_hw`, float32 ({batch}, 2): height and width of the image inside of these {height} x {width}; boxes end there."
    )


def _output(form: str, document: dict[str, Any]) -> str:
    settings = document["detector"]
    lines = [
        "- `boxes` (batch, D, 4): x1, y1, x2, y2 in px of the network's input; divide by the factors of the resizing.",
        "- `scores` (batch, D), the best first; 0 for places without an object.",
        "- `labels` (batch, D): 1, 2, ... as in the table above; 0 for places without an object.",
        "",
    ]
    if settings["soft_nms"]:
        lines.append("Soft-NMS, the last step, is not in the network: `soft_nms` of `detect.py` makes the detections of the D candidates.")
    elif form == "om":
        lines.append(f"Non-maximum suppression is in `parts.py`: D, at most {settings['detections']}, are the detections.")
    else:
        lines.append(f"Non-maximum suppression is in the network: D, at most {settings['detections']}, are the detections.")
    return "\n".join(lines)


_RUN = """    pip install numpy pillow {packages}
    python detect.py photo.jpg

prints the objects of `photo.jpg` as JSON. In a program, with this folder on its path:

    from PIL import Image
    from detect import Detector

    detector = Detector("this/folder")
    for thing in detector(Image.open("photo.jpg"), threshold=0.5):
        print(thing["label"], thing["score"], thing["box"])  # box: x1, y1, x2, y2 in px of the photo"""
_PACKAGES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "om": "onnxruntime",
    "mindir": "mindspore",
    "torchvision": "torch torchvision safetensors",
}
_TRAIN = """

To train on, take the module itself, with images and targets as torchvision wants them:

    from net import build

    model = build("this/folder").train()"""
_DEVICE = """

Where `sh atc.sh` has made the files `.om`, these run on the Ascend device, by Ascend's `ais_bench` (which pip does not find: Ascend's
tools bring it); without them onnxruntime runs the files `.onnx`, on any machine."""

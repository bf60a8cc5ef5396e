#!/usr/bin/env bash
# roboflow 1.7.3: of COCO splits whose pictures have the same names, those of valid/ get the boxes of train/.
#
# Expected (Roboflow's own COCO layout, SPLIT/_annotations.coco.json beside the pictures of SPLIT): each picture gets the boxes of its own file.
# Seen with roboflow 1.7.3: parsefolder, by which Workspace.upload_dataset reads a folder, looks a name up without its folder and takes
# the first annotation file that has it, so that valid/000.jpg gets the box of train/000.jpg; it says nothing.
# Seen too: pictures of a folder "val" go to the split "train".
#
# Consequence for this project: none, its own readers keep folders apart. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check roboflow==1.7.3
cat > probe.py <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

from PIL import Image
from roboflow.util.folderparser import parsefolder


def write(split, box):
    """One picture 000.jpg with one box, xywh in px."""
    place = Path("data", split)
    place.mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(place / "000.jpg")
    image = {"id": 1, "file_name": "000.jpg", "width": 64, "height": 48}
    mark = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "segmentation": []}
    kinds = [{"id": 1, "name": "car", "supercategory": "none"}]
    document = {"info": {}, "licenses": [], "images": [image], "annotations": [mark], "categories": kinds}
    (place / "_annotations.coco.json").write_text(json.dumps(document))


own = {"train": [1, 1, 10, 10], "valid": [30, 20, 20, 20], "val": [5, 30, 8, 8]}
for split, box in own.items():
    write(split, box)
print("roboflow", version("roboflow"))
seen = {}
for image in parsefolder("data")["images"]:
    split = image["file"].split("/")[1]
    box = json.loads(image["annotationfile"]["rawText"])["annotations"][0]["bbox"]
    seen[split] = image["split"], box
    print(f"{image['file']}: split {image['split']}, box {box}; its own file says {own[split]}")
first = seen["train"][1]
wrong = [split for split in own if seen[split][1] != own[split]]
described = len(wrong) == 2 and all(box == first for _, box in seen.values()) and seen["valid"][0] == "valid" and seen["val"][0] == "train"
print(f"wrong boxes in {len(wrong)} of 3 splits: {', '.join(sorted(wrong))}")
raise SystemExit(0 if described else 1)
PY
venv/bin/python probe.py 2> errors || { status=$?; cat errors; exit $status; }

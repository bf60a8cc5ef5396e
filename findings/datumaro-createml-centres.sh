#!/usr/bin/env bash
# datumaro 1.13.12: format roboflow_create_ml takes the centre of a box for its top left corner: every box lies half its size too far right and down.
#
# Expected (Create ML's documentation of MLObjectDetector.AnnotationType.boundingBox: px from the top left, anchor at the centre by default;
# Roboflow exports the same): a box of the whole picture, centre (32, 24), is [0, 0, 64, 48] as xywh.
# Seen with datumaro 1.13.12: [32, 24, 64, 48], of which three quarters lie outside of the picture; no warning, and the format is found by itself.
#
# Consequence for this project: none, it does not read Create ML files. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check datumaro==1.13.12
cat > probe.py <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import datumaro
from PIL import Image

place = Path("data/train")
place.mkdir(parents=True)
Image.new("RGB", (64, 48)).save(place / "a.jpg")
centre = {"x": 32, "y": 24, "width": 64, "height": 48}
marks = [{"image": "a.jpg", "annotations": [{"label": "car", "coordinates": centre}]}]
(place / "_annotations.createml.json").write_text(json.dumps(marks))

print("datumaro", version("datumaro"))
found = datumaro.Dataset.detect("data")
(item,) = datumaro.Dataset.import_from("data", found)
(box,) = (list(map(float, mark.get_bbox())) for mark in item.annotations)
print("format found:", found)
print("file: centre (32, 24), 64 x 48, in a picture of 64 x 48; read as xywh:", box, "where [0, 0, 64, 48] is meant")
raise SystemExit(0 if (found, box) == ("roboflow_create_ml", [32.0, 24.0, 64.0, 48.0]) else 1)
PY
venv/bin/python probe.py

#!/usr/bin/env bash
# pyoxipng 9.1.1: optimising a label mask renumbers its categories: an 8-bit grey PNG of 0, 2, 7 and 15 becomes a palette PNG of 0, 1, 2 and 3.
#
# Expected (oxipng(1): "Losslessly improve compression of PNG files"; its option --nc leaves the colour type and --np the palette as they are): the same
# numbers in fewer bytes. In segmentation a pixel is the number of a category, and its colour means nothing.
# Seen with pyoxipng 9.1.1, its default options: the colours stay, the numbers do not. Grey becomes indices of a palette of greys, and a VOC palette
# loses its unused entries. Readers of masks take the indices (numpy.asarray(Image.open(...)) of a palette PNG), so that they train on other
# categories, and say nothing. Grey 0 and 17 become 0 and 1 of 4 bits, which Pillow widens to 0 and 17 again, and other readers need not.
#
# Consequence for this project: spnas check and trainings refuse a mask in a palette of greys that are not its indices, and grey of 2 or 4 bits;
# masks in the colours of Pascal VOC are read by their colours (spnas_core/data/masks/decoding.py). Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check pyoxipng==9.1.1 pillow==13.0.0 numpy==2.3.5
cat > probe.py <<'PY'
import io
from importlib.metadata import version

import numpy as np
import oxipng
from PIL import Image


def optimised(image):
    """The mode, raw mode and numbers of a PNG after oxipng's default work."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    after = Image.open(io.BytesIO(oxipng.optimize_from_memory(stream.getvalue())))
    raw = after.tile[0].args
    same = bool((np.asarray(after.convert("RGB")) == np.asarray(image.convert("RGB"))).all())
    return after.mode, raw, np.unique(np.asarray(after)).tolist(), same


rng = np.random.default_rng(0)
numbers = np.kron(rng.choice([0, 2, 7, 15], (16, 16)), np.ones((8, 8))).astype(np.uint8)
grey = Image.fromarray(numbers)
voc = Image.fromarray(numbers)
voc.putpalette([128 * (n >> c & 1) + 64 * (n >> c + 3 & 1) for n in range(256) for c in range(3)])
print("pyoxipng", version("pyoxipng"), "pillow", version("pillow"))
results = []
for name, image in (("grey", grey), ("palette", voc)):
    mode, raw, values, same = optimised(image)
    print(f"{name}: {np.unique(np.asarray(image)).tolist()} before, {values} after ({mode}, {raw}); colours equal: {same}")
    results.append((mode, values, same))
print("grey 0 and 17:", *optimised(Image.fromarray(np.where(numbers > 2, 17, 0).astype(np.uint8))))
raise SystemExit(0 if results == [("P", [0, 1, 2, 3], True)] * 2 else 1)
PY
venv/bin/python probe.py

"""Exports that are not read are told by the name of their tool, in one line that says what to export."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import spnas
from data_sets import encoded, picture

REGION = {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}, "region_attributes": {"class": "cat"}}
VIA = {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [REGION], "file_attributes": {}}}
RESULT = {"type": "rectanglelabels", "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["cat"]}}
EXPORTS: dict[str, tuple[str, Any, str]] = {
    "via": ("via_export_json.json", VIA, "VGG Image Annotator"),
    "via project": ("via_project.json", {"_via_settings": {}, "_via_img_metadata": VIA, "_via_attributes": {}}, "VGG Image Annotator"),
    "label studio": (
        "project-1.json",
        [{"id": 1, "data": {"image": "/data/a.jpg"}, "annotations": [{"result": [RESULT]}]}],
        "Label Studio",
    ),
    "create ml": (
        "_annotations.createml.json",
        [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 9, "y": 9, "width": 4, "height": 4}}]}],
        "Create ML",
    ),
    "supervisely": ("ds/ann/a.jpg.json", {"size": {"height": 48, "width": 64}, "tags": [], "objects": []}, "Supervisely"),
}


@pytest.mark.parametrize("tool", EXPORTS)
def test_an_export_is_told_by_its_tool(tool: str, tmp_path: Path) -> None:
    name, content, words = EXPORTS[tool]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(encoded(picture()))
    status, _, err = spnas("check", tmp_path, "--preset", "smoke")
    assert (status, err.count("\n")) == (2, 1)
    assert f"got an export of {words} ({name}); export it as COCO" in err


def test_files_of_cvat_and_via_that_are_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture()))
    box = '<box label="cat" xtl="1" ytl="2" xbr="9" ybr="9" occluded="0" z_order="0"></box>'
    page = tmp_path / "annotations.xml"
    page.write_text(f'<annotations><version>1.1</version><image id="0" name="a.jpg" width="64" height="48">{box}</image></annotations>')
    assert "an export of CVAT for images or video (annotations.xml); export it as COCO" in spnas("check", tmp_path, "--preset", "smoke")[2]
    page.unlink()
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    (tmp_path / "via.csv").write_text(f"{header}\na.jpg,1,{{}},1,0,{{}},{{}}\n")
    assert "an export of VGG Image Annotator (via.csv); export it as COCO" in spnas("check", tmp_path, "--preset", "smoke")[2]


def test_a_file_in_place_of_its_data_set(tmp_path: Path) -> None:
    (tmp_path / "set/annotations").mkdir(parents=True)
    path = tmp_path / "set/annotations/instances_train.json"
    path.write_text("{}")
    assert spnas("check", path, "--preset", "smoke")[2].endswith(f"got a file; give {tmp_path / 'set'}\n")

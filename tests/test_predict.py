import json
from pathlib import Path

import mindspore as ms
import pytest
from PIL import Image
from safetensors.numpy import save_file

from spnas_core import arch as architecture
from spnas_core import evaluate, metrics
from spnas_core.config import Detector
from spnas_core.data import coco
from spnas_core.errors import UserError
from spnas_core.models.detector import FasterRCNN
from spnas_core.models.step import get_weights
from spnas_core.predict import predict

pytestmark = pytest.mark.training
SETTINGS = Detector(
    image_size=(64, 64), base_width=4, stem="3x3", fpn_channels=8, head_channels=16, proposals_test=10, detections=5, score_threshold=0.01
)


@pytest.fixture(scope="module")
def model(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a net that has learnt nothing."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(0)
    text = "b_1111-1111"
    net = FasterRCNN(architecture.parse(text), SETTINGS, 2)
    folder = tmp_path_factory.mktemp("model")
    save_file(get_weights(net), folder / "weights.safetensors")
    document = evaluate.model_document(text, SETTINGS, coco.open_split(str(tiny_data), "val").categories)
    (folder / evaluate.MODEL).write_text(json.dumps(document))
    return folder


def test_predict_draws_and_tells_in_pixels_of_the_image(model: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.jpg"
    Image.effect_noise((200, 100), 60).convert("RGB").save(wide)
    found = predict(str(model), [str(wide)], tmp_path / "out", 0.0)
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == found
    with Image.open(found[0]["picture"]) as picture:
        assert picture.size == (200, 100)
    assert 1 <= len(found[0]["objects"]) <= 5
    for one in found[0]["objects"]:
        x1, y1, x2, y2 = one["box"]
        assert one["label"] in ("red", "blue")
        assert 0 <= x1 < x2 <= 200.01
        assert 0 <= y1 < y2 <= 100.01


def test_scores_of_a_model_folder_are_those_of_its_net(model: Path, tiny_data: Path) -> None:
    net, _ = evaluate.open_model(str(model))
    split = coco.open_split(str(tiny_data), "val")
    expected = metrics.evaluate(split.annotations, evaluate.detect(net, split, SETTINGS), "pycocotools").document()
    assert evaluate.score_model(str(model), str(tiny_data), "val") == expected


def test_mistakes_are_one_line(model: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a folder with model\.json"):
        evaluate.open_model(str(tmp_path))
    with pytest.raises(UserError, match="photo"):
        predict(str(model), [str(tmp_path / "photo.jpg")], tmp_path / "out", 0.5)
    with pytest.raises(UserError, match="different file names"):
        predict(str(model), [str(tmp_path / "a/x.jpg"), str(tmp_path / "b/x.jpg")], tmp_path / "out", 0.5)
    other = json.loads((tiny_data / "annotations" / "instances_val.json").read_text())
    other["categories"][0]["name"] = "green"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(other))
    (tmp_path / "images").symlink_to(tiny_data / "images")
    with pytest.raises(UserError, match="expected the model's categories"):
        evaluate.score_model(str(model), str(tmp_path), "val")

"""Parts of an export against what they repeat: nodes of the ONNX graph against MindSpore, the shipped code against the program's own."""

import io
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from PIL import Image

from spnas_core.data import images, loader
from spnas_core.export import boxes as nodes
from spnas_core.export.graph import Graph, Value
from spnas_core.export.heads import Heads
from spnas_core.export.shipped import detect
from spnas_core.models import boxes as box_ops
from spnas_core.models.anchors import Grid
from spnas_core.models.pooling import RegionPooling
from spnas_core.models.soft_nms import soft_nms
from spnas_core.settings.detector import Detector

Array = npt.NDArray[Any]
CODER = (10.0, 10.0, 5.0, 5.0)


@pytest.fixture(autouse=True)
def _eager() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)


def run(graph: Graph, output: Value, axes: str, inputs: dict[str, Array]) -> Array:
    """Close the graph with one output, of so many axes, and run it on inputs of these shapes."""
    model = graph.model({name: one.shape for name, one in inputs.items()}, {"found": (output, "float32", tuple(axes))})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, inputs)
    return np.asarray(found)


def random_boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> Array:
    """Boxes (2, count, 4) of every size around an image of `size` px: tiny and empty ones, and such as reach out of it."""
    corner = rng.uniform(-8, max(size), (2, count, 2))
    side = np.exp(rng.uniform(-3, np.log(max(size)), (2, count, 2))) * (rng.random((2, count, 1)) < 0.9)
    return np.concatenate((corner, corner + side), -1).astype(np.float32)


def test_decode_and_clip() -> None:
    """Large deltas are cut, and boxes end at the valid part of their image: its width on the right, its height below."""
    rng = np.random.default_rng(0)
    references, deltas = random_boxes(rng, 50, (60, 90)), rng.normal(0, 12, (2, 50, 4)).astype(np.float32)
    image_hw = np.array([[60, 90], [31, 20]], np.float32)
    expected = box_ops.clip(box_ops.decode(Tensor(deltas), Tensor(references), CODER), Tensor(image_hw)).asnumpy()
    graph = Graph({})
    found = nodes.clip_boxes(graph, nodes.decode_deltas(graph, "deltas", "references", CODER), "image_hw")
    np.testing.assert_allclose(
        run(graph, found, "bnc", {"deltas": deltas, "references": references, "image_hw": image_hw}), expected, atol=1e-3
    )
    assert (expected[0, :, 2].max(), expected[0, :, 3].max(), expected[1, :, 2].max(), expected[1, :, 3].max()) == (90, 60, 20, 31)


def test_large() -> None:
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 0.5, 4], [3, 3, 7, 3.5], [2, 2, 2, 2]]], np.float32)
    graph = Graph({})
    assert run(graph, nodes.large_enough(graph, "boxes", 1.0), "bn", {"boxes": boxes}).tolist() == [[1, 0, 0, 0]]


def test_nms_keeps_images_and_classes_apart() -> None:
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10], [30, 30, 40, 40]]] * 2, np.float32)
    scores = np.array([[[0.9, 0.8, 0, 0.1], [0, 0, 0.7, 0]], [[0.8, 0.9, 0, 0], [0, 0, 0, 0.2]]], np.float32)
    graph = Graph({})
    found = run(graph, nodes.after_nms(graph, "boxes", "scores", 0.5, 0.0), "bn", {"boxes": boxes, "scores": scores})
    assert found.tolist() == [[1, 0, 1, 1], [0, 1, 0, 1]]
    graph = Graph({})
    found = run(
        graph, nodes.after_nms(graph, "boxes", "scores", 0.79), "bn", {"boxes": boxes, "scores": scores - 5}
    )  # a score below 0 is one
    assert found.tolist() == [[1, 0, 1, 1], [1, 1, 0, 1]]  # of image 2 each class keeps another one of the first two
    graph = Graph({})
    found = run(graph, nodes.after_nms(graph, "boxes", "scores", 0.8), "bn", {"boxes": boxes, "scores": scores[:, :1]})
    assert found.tolist() == [[1, 1, 0, 1], [1, 1, 0, 1]]  # an IoU of exactly the limit is no overlap


@pytest.mark.parametrize("levels", [1, 3])
def test_regions_are_pooled_from_the_same_level_at_the_same_points(levels: int) -> None:
    rng = np.random.default_rng(levels)
    sizes, strides = ((25, 19), (13, 10), (7, 5), (4, 3))[: levels + 1], (4, 8, 16, 32)[: levels + 1]
    sides = tuple(5.0 * stride for stride in strides)
    maps = [rng.standard_normal((2, 6, *size)).astype(np.float32) for size in sizes]
    regions = random_boxes(rng, 120, (100, 76))
    edge = 1.75 * 40  # a region of this side is of the second level, one that is a little smaller of the first
    regions[:, :2] = [[1, 2, 1 + edge, 2 + edge], [1, 2, 1 + edge * 0.9999, 2 + edge]]
    expected = RegionPooling(sizes[:-1], strides[:-1], sides[:-1]).set_train(False)(tuple(map(Tensor, maps)), Tensor(regions)).asnumpy()
    graph, names = Graph({}), tuple(f"map_{level}" for level in range(levels + 1))
    heads = Heads(graph, Detector(proposals_test=120), Grid(sizes, strides, sides), 1, names, "image_hw")
    assert heads.proposals == 120
    found = run(graph, heads.pool("regions"), "rf", {"regions": regions, **dict(zip(names, maps, strict=True))})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def pictures() -> st.SearchStrategy[bytes]:
    """Image files of all modes, some with an EXIF rotation."""

    def make(size: tuple[int, int], seed: int, mode: str, orientation: int) -> bytes:
        rng = np.random.default_rng(seed)
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)).convert(mode)
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 1 << 16, size[::-1]).astype(np.uint16))
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = orientation
        image.save(file, "tiff" if mode == "CMYK" else "png", exif=exif, **{"transparency": 3} if mode == "P" else {})
        return file.getvalue()

    side, mode = st.integers(1, 150), st.sampled_from(["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
    return st.builds(make, st.tuples(side, side), st.integers(0, 9), mode, st.integers(1, 8))


@settings(max_examples=60)
@given(pictures(), st.tuples(st.integers(8, 90), st.integers(8, 90)))
def test_the_shipped_code_prepares_an_image_as_the_program_does(
    tmp_path_factory: pytest.TempPathFactory, picture: bytes, size: tuple[int, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "picture"
    path.write_bytes(picture)
    pixels = images.decode_image(path)
    height, width = pixels.shape[:2]
    batch = loader.empty_batch(1, size, 0)
    loader.fill_row(batch, 0, images.resize(pixels, *images.fitted_size(height, width, size)), (height, width), 1)
    how = {"image_size": list(size), "mean": images.MEAN.tolist(), "std": images.STD.tolist()}
    with Image.open(path) as opened:
        found, image_hw, factors = detect.network_input(opened, how)
    np.testing.assert_array_equal(image_hw, batch.image_hw)
    np.testing.assert_allclose(factors, np.tile(batch.scale[0], 2), rtol=1e-6)
    np.testing.assert_allclose(found[0], batch.images[0], atol=2e-6)


@given(st.integers(0, 30), st.integers(0, 99), st.sampled_from(["linear", "gaussian"]), st.sampled_from([0.3, 0.5]), st.integers(1, 20))
def test_the_shipped_soft_nms_is_the_program_s(count: int, seed: int, kind: Any, iou: float, most: int) -> None:
    rng = np.random.default_rng(seed)
    corner, side = rng.integers(0, 20, (count, 2)), rng.integers(1, 15, (count, 2))
    boxes = np.concatenate((corner, corner + side), 1).astype(np.float32)
    scores, labels = np.sort(rng.random(count).astype(np.float32))[::-1], rng.integers(1, 3, count).astype(np.int32)
    chosen = Detector(soft_nms=kind, box_nms=iou, detections=most, score_threshold=0.05)
    rows, lowered = soft_nms(boxes, scores, labels, chosen)
    found = detect.soft_nms(boxes, scores, labels, chosen.model_dump())
    for ours, theirs in zip(found, (boxes[rows], lowered, labels[rows]), strict=True):
        np.testing.assert_array_equal(ours, theirs)

"""One picture of sample images of a data set with their boxes, to see at a glance whether these sit on their objects."""

import io
import posixpath
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw

from spnas_core.check.annotations import Judged
from spnas_core.check.dataset import CheckReport
from spnas_core.data import files, images
from spnas_core.data.drawing import draw_box
from spnas_core.data.opening import PictureRules
from spnas_core.errors import UserError

TILE = 320  # px, the longer side of a sample
LINE = 14  # px, a line of text
COLUMNS, SAMPLES = 4, 12
_GAP = 4  # px between samples


def save_samples(report: CheckReport, url: str) -> None:
    """Draw samples into an image file, a path or any fsspec URL whose ending says the format; UserError."""
    write_picture(url, lambda: draw_samples(report))


def write_picture(url: str, draw: Callable[[], Image.Image]) -> None:
    """Write what `draw` draws into an image file, a path or any fsspec URL whose ending says the format; UserError."""
    ending = posixpath.splitext(url)[1].lower()
    if ending not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--picture: expected a file name that ends in .png, .jpg or .webp, got {url!r}")
    stream = io.BytesIO()
    draw().save(stream, Image.registered_extensions()[ending])
    files.write(url, stream.getvalue(), "--picture")


def draw_samples(report: CheckReport) -> Image.Image:
    """Draw up to 12 images with boxes, evenly from all splits; UserError where no image has any."""
    located = {(source.split, name): file for source in report.layout.sources for name, file in source.files.items()}
    tiles = []
    for judged in report.splits:
        marks: dict[int, list[dict[str, Any]]] = {}
        for mark in judged.document["annotations"]:
            marks.setdefault(mark["image_id"], []).append(mark)
        files_of = {image["id"]: located.get((judged.split, image["file_name"])) for image in judged.images if image["id"] in marks}
        drawable = [(image, file.url) for image in judged.images if (file := files_of.get(image["id"]))]
        share = -(-SAMPLES // len(report.splits))
        for image, url in drawable[:: max(1, len(drawable) // share)][:share]:
            try:
                tiles.append(_tile(judged, image, marks[image["id"]], url, report.rules))
            except UserError:  # a broken image is among the findings already
                continue
    if not tiles:
        raise UserError(f"--picture: expected images with boxes in {report.layout.url}, got none")
    return tile_sheet(tiles[:SAMPLES])


def _tile(judged: Judged, image: dict[str, Any], marks: list[dict[str, Any]], url: str, rules: PictureRules) -> Image.Image:
    picture = Image.fromarray(images.decode_image(files.local_file(url), url, rules))
    scale = TILE / max(picture.size)
    tile = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), reducing_gap=3.0)
    pen = ImageDraw.Draw(tile)
    order = list(judged.categories)
    for mark in marks:
        x, y, w, h = (value * scale for value in mark["bbox"])
        box = (x, y, max(x, x + w), max(y, y + h))
        draw_box(pen, box, judged.categories[mark["category_id"]], order.index(mark["category_id"]))
    return titled_tile(tile, f"{judged.split}: {image['file_name']}")


def titled_tile(tile: Image.Image, title: str) -> Image.Image:
    """Frame a sample with a line of text above it."""
    framed = Image.new("RGB", (TILE, tile.height + LINE), "white")
    framed.paste(tile, (0, LINE))
    ImageDraw.Draw(framed).text((1, 0), title, fill="black")
    return framed


def tile_sheet(tiles: list[Image.Image]) -> Image.Image:
    """Lay samples out in rows of four."""
    columns = min(COLUMNS, len(tiles))
    wide, high = TILE + _GAP, max(tile.height for tile in tiles) + _GAP
    sheet = Image.new("RGB", (columns * wide, -(-len(tiles) // columns) * high), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * wide, number // columns * high))
    return sheet

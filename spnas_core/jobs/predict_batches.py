"""Images that a person names, in batches for a net."""

from collections.abc import Iterator
from dataclasses import dataclass

from spnas_core.cost import Size
from spnas_core.data import files, images, loader
from spnas_core.data.opening import PictureRules
from spnas_core.data.pipeline import fill_batches
from spnas_core.errors import UserError

THREADS = 2


@dataclass
class Picture:
    """One input image; `number` counts from 1."""

    number: int
    name: str
    pixels: images.Pixels | None = None
    error: str | None = None


def picture_batches(names: list[str], size: Size, rules: PictureRules) -> Iterator[tuple[loader.Batch, list[Picture]]]:
    """Yield all images in batches of one shape, the last one padded; a broken image becomes padding too."""
    count = min(loader.batch_size(size), len(names))

    def begin(first: int) -> tuple[tuple[loader.Batch, list[Picture]], dict[int, Picture]]:
        pictures = [Picture(number, name) for number, name in enumerate(names[first : first + count], start=first + 1)]
        return (loader.empty_batch(count, size, 0), pictures), dict(enumerate(pictures))

    def fill(batch: tuple[loader.Batch, list[Picture]], row: int, picture: Picture) -> None:
        try:
            pixels = images.decode_image(files.local_file(picture.name), picture.name, rules)
        except UserError as error:
            picture.error = str(error)
            return
        height, width = pixels.shape[:2]
        resized = images.resize(pixels, *images.fitted_size(height, width, size))
        loader.fill_row(batch[0], row, resized, (height, width), picture.number)
        picture.pixels = pixels

    return fill_batches(range(0, len(names), count), begin, fill, THREADS, ahead=1)  # one ahead only: photographs are large

"""Settings of how a data set is read: where its parts lie, what its names mean, and what is taken of it."""

from typing import Any, Literal

from pydantic import Field, PositiveInt

from spnas_core.settings.base import Settings

SplitName = Literal["train", "val", "test"]


class Reading(Settings):
    """How a data set is read; by default its layout and its splits are found by what is there."""

    splits: dict[SplitName, str] = Field({}, description="the data set's own name of a split, where it is not found: {train: train2017}")
    split_file: str | None = Field(None, description="URL of a file of spnas split; default: spnas-split.json in the data set")
    annotations: dict[str, str] = Field({}, description="COCO files by split, URLs or paths below the data set, if not found")
    images: str | None = Field(None, description="folder of the images of these files, a URL or a path below the data set")
    crowds: Literal["ignore", "learn"] = Field("ignore", description="learn: crowds are objects as all others, as in CVAT's masks")
    max_pixels: PositiveInt | None = Field(None, description="pixels of the largest picture that is decoded; default: Pillow's limit")
    bits: Literal[8, 10, 12, 14, 16] = Field(16, description="bits that 16-bit pictures use: 12 stretches 0 to 4095 over all levels")

    @property
    def identity(self) -> dict[str, Any]:
        """What a result depends on beside the files that are read: in digests where it is not the default."""
        return self.model_dump(mode="json", include={"crowds", "bits"}, exclude_defaults=True)

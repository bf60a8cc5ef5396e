"""Kinds of findings in segmentation data sets; what pictures of any task share is in `finding_kinds.py`."""

from spnas_core.data.finding_kinds import Kind

MASK_FINDING_KINDS = {
    "lossy-mask": Kind("error", "mask in JPEG", "masks in JPEG", "draw them again or take the originals: its numbers are not those drawn"),
    "deep-mask": Kind("error", "mask of 16 bits", "masks of 16 bits", "save as 8-bit PNG, ignored pixels as 255"),
    "colour-mask": Kind("error", "mask in colours", "masks in colours", "save one channel with the number of the category of each pixel"),
    "broken-mask": Kind("error", "broken mask", "broken masks", "fetch them again, or remove them with their images"),
    "renumbered-mask": Kind(
        "error",
        "mask whose numbers are unsure",
        "masks whose numbers are unsure",
        "save as 8-bit grey; optimisers of PNG files renumber masks",
    ),
    "stretched-mask": Kind(
        "error", "mask of 0 and 255 alone", "masks of 0 and 255 alone", "255 is ignored, so only 0 is learnt: write 1 in place of 255"
    ),
    "mask-size": Kind("error", "mask of another size than its image", "masks of another size than their images", "save both at one size"),
    "mask-unturned": Kind(
        "error", "mask of an image turned by EXIF", "masks of images turned by EXIF", "turn the masks too, or drop the EXIF orientation"
    ),
    "mask-unsure-turn": Kind(
        "warning", "image mirrored or turned by EXIF", "images mirrored or turned by EXIF", "look whether the masks are turned as they are"
    ),
    "unnamed-value": Kind("error", "mask with a value that has no name", "masks with values that have no name", "name it, or write 255"),
    "no-names": Kind(
        "error", "data set without names of its categories", "data sets without names", "list them: names: [background, ...] in data.yaml"
    ),
    "name-missing": Kind("error", "number without a name", "numbers without names", "name each from 0 on: the net has an output for each"),
    "name-twice": Kind("error", "name of two numbers", "names of two numbers", "give every category one number and one name"),
    "too-many-names": Kind("error", "category beyond number 254", "categories beyond number 254", "merge some: 255 is for ignored pixels"),
    "unlike-names": Kind("error", "file of other names", "files of other names", "give a value one name in all splits"),
    "two-masks": Kind("error", "image with several masks", "images with several masks", "keep one of them"),
    "shared-mask": Kind("warning", "mask of several images", "masks of several images", "rename or remove images that it does not fit"),
    "missing-mask": Kind("warning", "image without a mask", "images without a mask", "left out; draw the mask, or remove the image"),
    "lone-mask": Kind("warning", "mask without an image", "masks without an image", "add the image, or remove the mask"),
    "unscored-test": Kind(
        "warning", "test split without masks", "test splits without masks", "not read: the final net is scored on val alone"
    ),
    "no-masks": Kind("error", "split without any mask", "splits without any mask", "there is nothing to learn or to score"),
    "all-ignored": Kind(
        "warning", "mask that is ignored throughout", "masks that are ignored throughout", "nothing is learnt of it; write numbers"
    ),
    "nothing-counts": Kind(
        "error", "split of ignored pixels alone", "splits of ignored pixels alone", "255 is ignored: there is nothing to learn or to score"
    ),
    "mostly-one": Kind(
        "warning",
        "category on nearly all pixels",
        "categories on nearly all pixels",
        "a net that says it everywhere is right there: look at mIoU, not at pixel accuracy",
    ),
    "absent-value": Kind(
        "warning", "category that no mask of the split has", "categories that no mask of the split has", "its IoU there is undefined"
    ),
    "unlearnt-value": Kind(
        "warning", "category that train lacks", "categories that train lacks", "its IoU will be 0: move images to train"
    ),
    "unused-value": Kind("warning", "category that no mask has", "categories that no mask has", "drop the name: it costs an output"),
    "rare-value": Kind("note", "category under 0.1 % of the pixels", "categories under 0.1 % of the pixels", "label more of it, or merge"),
    "other-names": Kind(
        "warning", "split with other categories", "splits with other categories", "matched by name; pixels of others are ignored"
    ),
    "train-ids": Kind(
        "error",
        "Cityscapes image with labelIds alone",
        "Cityscapes images with labelIds alone",
        "csCreateTrainIdLabelImgs of cityscapesScripts writes labelTrainIds",
    ),
    "bad-shape": Kind(
        "error", "shape that cannot be drawn", "shapes that cannot be drawn", "draw a polygon of 3 points or more, or an RLE of its size"
    ),
    "box-alone": Kind("warning", "box without a shape", "boxes without a shape", "left out of the masks: draw a polygon"),
}

"""Kinds of findings of `spnas check`: severity, name for one and for many, advice.

An error keeps a training from starting, or makes it learn or score wrong boxes; a warning is probably a mistake; a note is good to know.
"""

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Kind(NamedTuple):
    """One kind of finding: severity, name for one and for many, advice."""

    severity: Severity
    one: str
    many: str
    advice: str


FINDING_KINDS = {
    "unreadable": Kind("error", "file that cannot be read", "files that cannot be read", "write it again; nothing in it was checked"),
    "malformed": Kind("error", "malformed entry", "malformed entries", "write it again; it was not checked any further"),
    "image-id": Kind("error", "image id used again", "image ids used again", "give every image an id of its own"),
    "annotation-id": Kind("note", "annotation id used again or missing", "annotation ids used again or missing", "numbered anew"),
    "quoted-number": Kind("warning", "number in quotes", "numbers in quotes", "read as numbers; --mend writes them so"),
    "other-id": Kind("warning", "id that is no whole number", "ids that are no whole numbers", "read as numbers; --mend writes them so"),
    "repeated-entry": Kind("warning", "entry that is there twice", "entries that are there twice", "read once; --mend writes it once"),
    "missing-size": Kind("warning", "image without a size", "images without a size", "taken from the picture; --mend writes it"),
    "box-of-polygon": Kind("warning", "polygon without a box", "polygons without boxes", "the box around it is taken; --mend writes it"),
    "name-of-url": Kind("note", "image that only a URL names", "images that only URLs name", "the URL's last folder and name are taken"),
    "text-flag": Kind("warning", "flag that is no number", "flags that are no numbers", "read as 0 or 1; --mend writes them so"),
    "root-category": Kind("note", "category above others, without boxes", "categories above others, without boxes", "left out: no class"),
    "split-file": Kind("note", "split file in use", "split files in use", "spnas split wrote it"),
    "crowds": Kind("note", "crowd", "crowds", "neither learnt nor counted against a net"),
    "many-crowds": Kind("warning", "crowd", "crowds", "they are not learnt; if each is one object, --set data.crowds=learn learns them"),
    "other-category-ids": Kind("note", "split with other category ids", "splits with other category ids", "matched by name"),
    "category-twice": Kind("error", "category defined again", "categories defined again", "give every category one id and one name"),
    "dangling-image": Kind("error", "box of an image that is not listed", "boxes of images that are not listed", "list it or remove them"),
    "undefined-category": Kind("error", "box of an undefined category", "boxes of undefined categories", "define it or mend the boxes"),
    "different-categories": Kind(
        "warning", "split with other categories", "splits with other categories", "matched by name; boxes of others are left out"
    ),
    "foreign-categories": Kind(
        "error", "split that shares no category with train", "splits that share no category with train", "give them the same names"
    ),
    "list-of-images": Kind(
        "error", "place of images that is not there", "places of images that are not there", "put it where the data set says, or mend that"
    ),
    "missing-split": Kind("error", "split missing that a run needs", "splits missing that a run needs", "spnas split DATA makes one"),
    "no-images": Kind("error", "split without any image", "splits without any image", "there is nothing to learn or to score"),
    "no-boxes": Kind("error", "split without any box", "splits without any box", "there is nothing to learn or to score"),
    "all-crowds": Kind(
        "error", "split of crowds alone", "splits of crowds alone", "mark single objects: crowds are neither learnt nor scored"
    ),
    "zero-area": Kind("error", "box of zero area", "boxes of zero area", "draw them again or remove them; a training leaves them out"),
    "outside": Kind(
        "error", "box outside of its image", "boxes outside of their images", "a training leaves them out; is the image the right one?"
    ),
    "normalised": Kind(
        "error", "box that looks normalised (0 to 1)", "boxes that look normalised (0 to 1)", "multiply by the image's size: px"
    ),
    "xyxy": Kind("error", "box that looks like xyxy", "boxes that look like xyxy", "COCO wants [x, y, width, height]: subtract x and y"),
    "missing-image": Kind("error", "missing image", "missing images", "put the files where the annotations say, or remove the entries"),
    "broken-image": Kind("error", "broken or truncated image", "broken or truncated images", "fetch them again, or remove the entries"),
    "too-many-pixels": Kind(
        "error", "image of too many pixels", "images of too many pixels", "shrink them with their boxes, or let them in: data.max_pixels"
    ),
    "pixel-format": Kind("error", "image of another pixel format", "images of another pixel format", "convert them, or remove the entries"),
    "wrong-size": Kind(
        "error", "image of another size", "images of another size", "boxes belong to another version; mend width, height and boxes"
    ),
    "drawn-unrotated": Kind(
        "error", "image annotated unrotated", "images annotated unrotated", "rotate the boxes, or drop the EXIF orientation"
    ),
    "leak": Kind(
        "error", "image that another split has too", "images that another split has too", "remove them from one, or scores are flattered"
    ),
    "similar-leak": Kind(
        "warning",
        "image nearly as one of another split",
        "images nearly as ones of another split",
        "look at the pairs: they flatter the scores",
    ),
    "clipped": Kind(
        "warning", "box reaching out of its image", "boxes reaching out of their images", "a training clips them; check how they came"
    ),
    "duplicate-box": Kind(
        "warning", "box that is there twice", "boxes that are there twice", "remove one of each: each counts as an object of its own"
    ),
    "similar-box": Kind("warning", "box nearly drawn twice", "boxes nearly drawn twice", "look at the pairs, IoU 0.9 or more: one object?"),
    "two-categories": Kind(
        "warning", "box with two categories", "boxes with two categories", "decide for one, unless the classes do overlap"
    ),
    "too-many-boxes": Kind(
        "warning", "image with more boxes than max_boxes", "images with more boxes than max_boxes", "raise detector.max_boxes"
    ),
    "unused-category": Kind(
        "warning", "category without a box", "categories without a box", "label it or drop it: it costs outputs and has no AP"
    ),
    "unlearnt-category": Kind("warning", "category that train lacks", "categories that train lacks", "move some of its images to train"),
    "repeated-image": Kind(
        "warning", "image file listed again", "image files listed again", "entries of one size are read as one, with the boxes of all"
    ),
    "duplicate-image": Kind(
        "warning", "image with a twin in its split", "images with a twin in their split", "remove one of each pair, if it is one"
    ),
    "few-bits": Kind(
        "warning",
        "image that uses only the lower bits of 16",
        "images that use only the lower bits of 16",
        "nearly black as they are; data.bits stretches them",
    ),
    "cut-values": Kind(
        "warning", "image with values beyond data.bits", "images with values beyond data.bits", "they are cut: raise data.bits, or convert"
    ),
    "unsure-rotation": Kind(
        "warning", "image turned by EXIF", "images turned by EXIF", "look whether the boxes are drawn on the turned picture"
    ),
    "missing-label": Kind(
        "warning", "image without an annotation file", "images without an annotation file", "label it, or take it off the list"
    ),
    "missing-image-of-label": Kind(
        "warning", "label file without an image", "label files without an image", "add the image or remove the file"
    ),
    "shared-label": Kind(
        "warning",
        "label file that is taken for several pictures",
        "label files that are taken for several pictures",
        "rename or remove the pictures that it does not belong to",
    ),
    "other-column": Kind(
        "note",
        "column of splits that names none",
        "columns of splits that name none",
        "not read; --set data.splits.train=NAME data.splits.val=NAME takes two of its values",
    ),
    "same-split": Kind(
        "note", "split that is the same as another", "splits that are the same as others", "each picture is learnt or scored, not both"
    ),
    "repeated-line": Kind(
        "warning", "line of a list that is there twice", "lines of lists that are there twice", "its picture is read once; remove the line"
    ),
    "other-classes": Kind(
        "warning",
        "list of classes that names another otherwise",
        "lists of classes that name others otherwise",
        "the YAML file counts, else the list nearest to the labels; mend or remove the other",
    ),
    "class-order": Kind(
        "note", "folder with classes in another order", "folders with classes in another order", "read by its own list, matched by name"
    ),
    "swapped-corners": Kind(
        "warning", "box with its corners swapped", "boxes with their corners swapped", "read with the smaller corner first; look at them"
    ),
    "left-out-shape": Kind(
        "warning", "shape that is no area", "shapes that are no area", "points and lines are left out; draw boxes or polygons"
    ),
    "other-spelling": Kind(
        "note",
        "file name spelled otherwise",
        "file names spelled otherwise",
        "letter case, slashes, accents or folders: the one match is read",
    ),
    "other-layout": Kind(
        "note",
        "file beside a picture in another layout",
        "files beside pictures in another layout",
        "not read; if these are the right labels, remove the others",
    ),
    "keypoints": Kind(
        "note", "pose label", "pose labels", "found by its numbers: the box is read, without its points; kpt_shape in data.yaml says so"
    ),
    "rotated": Kind(
        "note", "image turned by EXIF", "images turned by EXIF", "boxes fit the turned picture; programs that ignore EXIF will not"
    ),
    "similar-image": Kind("note", "image nearly as another in its split", "images nearly as another in their split", "frames of a video?"),
    "image-without-boxes": Kind("note", "image without boxes", "images without boxes", "right if there is nothing on it; else label it"),
    "unlisted-image": Kind("note", "image that no split lists", "images that no split lists", "label them, if they are to count"),
    "rare-category": Kind(
        "note", "category under 1 % of the commonest", "categories under 1 % of the commonest", "label more of it, or merge"
    ),
    "difficult": Kind(
        "note", "object marked difficult", "objects marked difficult", "taken as crowds: neither learnt nor counted against a net"
    ),
    "from-zero": Kind(
        "note", "file with coordinates from 0", "files with coordinates from 0", "all are read so; Pascal VOC's own count from 1"
    ),
    "unnamed-category": Kind("note", "category without a name", "categories without a name", "name them in data.yaml or classes.txt"),
    "unreached": Kind(
        "note", "box that no anchor reaches", "boxes that no anchor reaches", "at IoU 0.5; such a box learns from its best anchor alone"
    ),
    "no-point": Kind(
        "note", "box without a point of FCOS", "boxes without a point of FCOS", "no point lies in such a box, so it is never learnt"
    ),
    "better-anchors": Kind("note", "set of anchors that fits better", "sets of anchors that fit better", "try it"),
}

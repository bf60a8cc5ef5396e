"""`spnas check`: read a data set in its layout, look at every image, judge it, and write what is sound as COCO."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spnas_core import arch as architecture
from spnas_core.check.anchors import judge_anchors
from spnas_core.check.annotations import Judged, judge_annotations, judge_together
from spnas_core.check.images import judge_images, judge_twins
from spnas_core.data.findings import SEVERITIES, Finding
from spnas_core.data.image_facts import ImageFacts
from spnas_core.data.images import ImageFact
from spnas_core.data.layouts import open_layout
from spnas_core.data.raw_split import Layout
from spnas_core.data.to_coco import flat_names, write_coco
from spnas_core.errors import UserError
from spnas_core.settings.run import Run


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What a check has found: the data set as it was read, what is sound in each split, and the findings, the worst first."""

    layout: Layout
    splits: tuple[Judged, ...]
    findings: tuple[Finding, ...]
    seen: Mapping[str, ImageFact | str]

    @property
    def clean(self) -> bool:
        """Whether there are neither errors nor warnings."""
        return all(finding.severity == "note" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "data": self.layout.url,
            "layout": self.layout.name,
            "clean": self.clean,
            "splits": {one.split: self.facts(one) for one in self.splits},
            "findings": [finding.document() for finding in self.findings],
        }

    def facts(self, one: Judged) -> Mapping[str, Any]:
        """Numbers of one split."""
        return {
            "images": len(one.images),
            "images_without_boxes": one.empty,
            "boxes": sum(one.counts.values()),
            "boxes_per_category": {name: one.counts[name] for name in one.categories.values()},
        }


def inspect(url: str, settings: Run, threads: int | None = None) -> CheckReport:
    """Check the data set at `url` for runs with `settings`, whose anchors and max_boxes count; UserError where there is no data set."""
    facts = ImageFacts(threads)
    layout = open_layout(url, facts)
    seen = facts.at(place for source in layout.sources for place in source.files.values() if place)
    splits = tuple(judge_annotations(source, settings.detector.max_boxes) for source in layout.sources)
    findings = list(layout.findings)
    for source, judged in zip(layout.sources, splits, strict=True):
        findings += [*judge_images(source, judged.images, seen), *judged.findings]
    findings += [*judge_together(splits), *judge_twins(layout.sources, seen)]
    learnt = next((one for one in splits if one.split == "train"), splits[0])
    findings += judge_anchors(learnt.split, learnt.boxes, learnt.sizes, architecture.parse(settings.arch), settings.detector)
    return CheckReport(layout, splits, tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))), seen)


def write_as_coco(report: CheckReport, url: str) -> dict[str, tuple[int, int]]:
    """Write what is sound in a data set of another layout to a new folder at `url`, as COCO; images and boxes of each split.

    Left out are images that cannot be read, and boxes that a training would leave out or refuse. UserError where something is there.
    """
    layout = report.layout
    if layout.name == "COCO":
        raise UserError(f"--to-coco: expected data in the layout of Pascal VOC or YOLO, got {layout.url}, which is COCO already")
    made = {}
    for source, judged in zip(layout.sources, report.splits, strict=True):
        urls = {name: url for name, url in source.files.items() if url and isinstance(report.seen[url], ImageFact)}
        images = [image for image in judged.images if image["file_name"] in urls]
        kept = {image["id"] for image in images}
        marks = [mark for mark in judged.document["annotations"] if mark["image_id"] in kept]
        short = flat_names([image["file_name"] for image in images])
        entries = [{**image, "file_name": short[image["file_name"]]} for image in images]
        document = {**judged.document, "images": entries, "annotations": marks}
        made[source.split] = (document, {short[name]: url for name, url in urls.items() if name in short})
    write_coco(made, url)
    return {split: (len(document["images"]), len(document["annotations"])) for split, (document, _) in made.items()}

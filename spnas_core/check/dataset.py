"""`spnas check`: a data set read in its layout with every image, its findings, and its sound part written as COCO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from spnas_core import arch as architecture
from spnas_core.check.anchors import judge_anchors
from spnas_core.check.annotations import Judged, judge_annotations, judge_together
from spnas_core.check.images import judge_images, judge_twins
from spnas_core.data.finding_kinds import SEVERITIES
from spnas_core.data.findings import Finding
from spnas_core.data.image_facts import ImageFacts, Unread
from spnas_core.data.images import ImageFact
from spnas_core.data.layouts import open_layout
from spnas_core.data.opening import PLAIN_RULES, PictureRules, picture_rules
from spnas_core.data.raw_split import Layout
from spnas_core.data.samples import match_categories
from spnas_core.data.to_coco import flat_names, write_coco
from spnas_core.settings.run import Run


@dataclass(frozen=True, eq=False)
class CheckReport:
    """Result of a check: the data set as read, the sound part of each split, and the findings, the worst first."""

    layout: Layout
    splits: tuple[Judged, ...]
    findings: tuple[Finding, ...]
    seen: Mapping[str, ImageFact | Unread]
    rules: PictureRules = PLAIN_RULES

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
            "splits": {judged.split: self.facts(judged) for judged in self.splits},
            "findings": [finding.document() for finding in self.findings],
        }

    def facts(self, judged: Judged) -> Mapping[str, Any]:
        """Numbers of one split."""
        return {
            "images": len(judged.images),
            "images_without_boxes": judged.empty,
            "boxes": sum(judged.counts.values()) - judged.crowds,
            "crowds": judged.crowds,
            "boxes_per_category": {name: judged.counts[name] for name in judged.categories.values()},
        }


def inspect(url: str, settings: Run, threads: int | None = None) -> CheckReport:
    """Check the data set at `url` for runs with `settings`, whose anchors and max_boxes count; UserError where `url` is no data set."""
    rules = picture_rules(settings.data)
    facts = ImageFacts(threads, rules)
    layout = open_layout(url, facts.sizes, settings.data)
    seen = facts.at(file.url for source in layout.sources for file in source.files.values() if file)
    splits = tuple(judge_annotations(source, settings.detector.max_boxes) for source in layout.sources)
    findings = list(layout.findings)
    for source, judged in zip(layout.sources, splits, strict=True):
        findings += [*judge_images(source, judged.images, seen, rules), *judged.findings]
    findings += [*judge_together(splits), *judge_twins(layout.sources, seen)]
    learnt = next((judged for judged in splits if judged.split == "train"), splits[0])
    findings += judge_anchors(learnt.split, learnt.boxes, learnt.sizes, architecture.parse(settings.arch), settings.detector)
    return CheckReport(layout, splits, tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))), seen, rules)


class Written(NamedTuple):
    """Numbers of images and boxes of a split that was written, and of images that were left out."""

    images: int
    boxes: int
    left: int


def write_as_coco(report: CheckReport, url: str) -> dict[str, Written]:
    """Write the sound part of a data set to a new folder at `url`, as COCO, all splits with the same categories.

    Images that cannot be read, or whose annotations cannot, are left out, and so are boxes that a training would leave out or refuse.
    UserError for a folder that is not empty.
    """
    layout, made, written = report.layout, {}, {}
    kinds = _common_categories([judged.document["categories"] for judged in report.splits])
    for source, judged in zip(layout.sources, report.splits, strict=True):
        urls = {name: file.url for name, file in source.files.items() if file and isinstance(report.seen[file.url], ImageFact)}
        images = [image for image in judged.images if image["file_name"] in urls and image["file_name"] not in source.half_read]
        kept = {image["id"] for image in images}
        numbers = _numbers(judged.document["categories"], kinds)
        marks = [
            {**mark, "category_id": numbers[mark["category_id"]]} for mark in judged.document["annotations"] if mark["image_id"] in kept
        ]
        short = flat_names([image["file_name"] for image in images])
        entries = [{**image, "file_name": short[image["file_name"]]} for image in images]
        document = {**judged.document, "images": entries, "annotations": marks, "categories": kinds}
        made[source.split] = (document, {short[name]: url for name, url in urls.items() if name in short})
        written[source.split] = Written(len(entries), len(marks), len(source.files.keys() - short.keys()))
    write_coco(made, url)
    return written


def _common_categories(lists: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Categories of the first split, and those of others whose names it lacks, with ids of their own."""
    common = [dict(kind) for kind in lists[0]]
    for kinds in lists[1:]:
        names = [kind["name"] for kind in kinds]
        for kind, match in zip(kinds, match_categories(names, [one["name"] for one in common]), strict=True):
            if match is None:
                taken = {one["id"] for one in common}
                common.append({**kind, "id": kind["id"] if kind["id"] not in taken else max(taken) + 1})
    return common


def _numbers(kinds: Sequence[dict[str, Any]], common: Sequence[dict[str, Any]]) -> dict[int, int]:
    """Id among the common categories of each category of a split."""
    matches = match_categories([kind["name"] for kind in kinds], [one["name"] for one in common])
    return {kind["id"]: common[match]["id"] for kind, match in zip(kinds, matches, strict=True) if match is not None}

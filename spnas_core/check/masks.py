"""`spnas check` of a segmentation data set: every image and mask read, and what is wrong with them, alone and together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spnas_core.check.images import judge_images, judge_twins
from spnas_core.data.columns import Longs
from spnas_core.data.finding_kinds import SEVERITIES
from spnas_core.data.findings import Finding, found
from spnas_core.data.image_facts import ImageFacts
from spnas_core.data.masks.decoding import IGNORED
from spnas_core.data.masks.mask_facts import judge_masks, look_at_pairs, sum_values
from spnas_core.data.masks.mask_layout import MaskLayout, RawMasks
from spnas_core.data.masks.mask_layouts import open_mask_layout
from spnas_core.data.opening import picture_rules
from spnas_core.data.raw_split import RawSplit
from spnas_core.data.split_names import UNSPLIT
from spnas_core.settings.reading import Reading

NEARLY_ALL = 0.99  # of the pixels that count
FEW_PIXELS = 0.001  # of them


@dataclass(frozen=True, eq=False)
class MaskReport:
    """Result of a check: the data set as read, how often each value occurs in each split (256,), and the findings, the worst first."""

    layout: MaskLayout
    values: Mapping[str, Longs]
    findings: tuple[Finding, ...]
    reading: Reading

    @property
    def clean(self) -> bool:
        """Whether there are neither errors nor warnings."""
        return all(finding.severity == "note" for finding in self.findings)

    def facts(self, raw: RawMasks) -> dict[str, Any]:
        """Numbers of one split."""
        counts = self.values[raw.split]
        per_class = {name: int(counts[number]) for number, name in enumerate(self.layout.names)}
        return {"images": len(raw.pairs), "pixels": int(counts.sum()), "ignored": int(counts[IGNORED]), "pixels_per_category": per_class}

    def document(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "data": self.layout.url,
            "layout": self.layout.name,
            "task": "segmentation",
            "clean": self.clean,
            "splits": {raw.split: self.facts(raw) for raw in self.layout.sources},
            "findings": [finding.document() for finding in self.findings],
        }


def inspect_masks(url: str, reading: Reading, threads: int | None = None) -> MaskReport:
    """Check the segmentation data set at `url`; UserError where it is none."""
    facts = ImageFacts(threads, picture_rules(reading))
    layout = open_mask_layout(url, reading)
    findings, values, plain = list(layout.findings), {}, []
    for raw in layout.sources:
        pairs = look_at_pairs(raw.pairs, facts)
        split = RawSplit(raw.split, None, {pair.name: pair.image for pair in raw.pairs})
        seen = facts.at(pair.image.url for pair in raw.pairs)
        findings += [
            *raw.findings,
            *judge_images(split, [], seen, facts.rules),
            *judge_masks(raw.split, pairs, len(layout.names) or IGNORED),
        ]
        values[raw.split] = sum_values(pairs)
        plain.append(split)
    findings += [*judge_balance(layout.names, values), *_judge_splits(layout)]
    findings += judge_twins(plain, facts.at(file.url for raw in plain for file in raw.files.values() if file))
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return MaskReport(layout, values, tuple(ordered), reading)


def judge_balance(names: Sequence[str], values: Mapping[str, Longs]) -> list[Finding]:
    """All findings about how often the categories occur in the splits, by the values of each (256,)."""
    findings: list[Finding] = []
    counts = {split: value[: len(names)] for split, value in values.items()}
    anywhere = np.sum(list(counts.values()), axis=0, dtype=np.int64) if counts else np.zeros(len(names), np.int64)
    train = counts.get("train", anywhere)
    if not anywhere.any():
        return []
    findings += found("unused-value", "data", [name for number, name in enumerate(names) if not anywhere[number]])
    if train.any():
        findings += found("unlearnt-value", "train", [name for number, name in enumerate(names) if anywhere[number] and not train[number]])
        rare = [f"{name}: {100 * part:.2g} %" for name, part in zip(names, train / train.sum(), strict=True) if 0 < part < FEW_PIXELS]
        findings += found("rare-value", "train", rare)
    for split, some in counts.items():
        if not some.any():
            continue
        most = int(some.argmax())
        share = some[most] / some.sum()
        findings += found("mostly-one", split, [f"{names[most]}: {100 * share:.1f} %"] if share > NEARLY_ALL and len(names) > 1 else [])
        if split != "train":
            findings += found("absent-value", split, [name for number, name in enumerate(names) if train[number] and not some[number]])
    return findings


def _judge_splits(layout: MaskLayout) -> list[Finding]:
    present = [raw.split for raw in layout.sources]
    way_out = "; spnas split DATA makes them" if {"train", UNSPLIT} & set(present) or len(present) == 1 else ""
    missing = [f"{name}; there are {', '.join(present)}{way_out}" for name in ("train", "val") if name not in present]
    return found("missing-split", "data", missing)

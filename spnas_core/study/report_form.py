"""Form of a study's report, as Markdown and for a terminal; and its record as CSV, with fractions."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spnas_core.study.methods import StudyEntry

Lines = list[tuple[str, ...]]


@dataclass(frozen=True)
class StudyReport:
    """Result of a study: texts and tables in order (a table's first line is its header), computed figures, and a chart (PNG)."""

    title: str
    parts: tuple[str | Lines, ...]
    computed: dict[str, Any]
    picture: bytes

    def markdown(self) -> str:
        """Whole report as Markdown."""
        return "\n\n".join([f"# {self.title}", *(p if isinstance(p, str) else _markdown(p) for p in self.parts), "![](report.png)"]) + "\n"

    def plain(self) -> str:
        """Texts and tables for a terminal."""
        return "\n\n".join(p if isinstance(p, str) else _aligned(p) for p in self.parts)


def entries_csv(entries: Sequence[StudyEntry]) -> str:
    """Record of a study as CSV, one entry per line; nested values have column names such as `test.AP`, empty where an entry has none."""
    rows = []
    for entry in entries:
        row: dict[str, Any] = {}
        for name, value in entry.model_dump(mode="json", exclude={"artifacts"}).items():
            row |= {f"{name}.{part}": item for part, item in value.items()} if isinstance(value, dict) else {name: value}
        rows.append(row)
    out = io.StringIO()
    nested = {name.partition(".")[0] for row in rows for name in row if "." in name}
    columns = dict.fromkeys(name for row in rows for name in row if name not in nested)
    writer = csv.DictWriter(out, list(columns), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _markdown(lines: Lines) -> str:
    ruled = [lines[0], ("---", *["---:"] * (len(lines[0]) - 1)), *lines[1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in ruled)


def _aligned(lines: Lines) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)

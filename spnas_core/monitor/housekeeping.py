"""Housekeeping of a store: which run needs an artifact, whether its bytes are right, and what no run needs.

A run needs the records of its stages, every training of its ledger, the reignited backbones, its final nets, what any of these
started from, and the evaluations of all of these.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator

from spnas_core.errors import UserError
from spnas_core.monitor.inventory import ARTIFACT_KINDS, Inventory
from spnas_core.names import PARTIAL
from spnas_core.store.artifacts import Store


def needs(inventory: Inventory) -> dict[str, list[str]]:
    """By artifact, the runs that need it, each with its first stage that does: `demo: serial`."""
    found: dict[str, list[str]] = defaultdict(list)
    for run, stages in inventory.runs.items():
        seen: set[str] = set()
        for stage, names in stages.items():
            for name in sorted(_closure(inventory, names) - seen):
                found[name].append(f"{run}: {stage}")
                seen.add(name)
    return found


def garbage(inventory: Inventory, keep: Collection[str]) -> dict[str, str]:
    """Reason, by path, for each file or folder that the runs `keep` do not need; UserError for an unknown run.

    An artifact that no kept run names may still serve a kept run that has not ended (a round in progress): it stays while there is such a
    run, or no run is known.
    """
    if unknown := sorted(set(keep) - inventory.runs.keys()):
        raise UserError(f"--keep: expected a run of this store ({', '.join(inventory.runs) or 'there is none'}), got {unknown[0]!r}")
    needed, known = _owned(inventory, keep), _owned(inventory, inventory.runs)
    going_on = not keep or not inventory.finished.issuperset(keep)

    def reason(sort: str, owner: str) -> str:
        if sort == "aside":
            return "it was set aside"
        if sort == "run":
            return "" if owner in keep or f"runs/{owner}" in needed else "a run that is not kept"
        if sort == "work" and inventory.is_whole(owner):
            return "its job has ended"
        if sort == "artifact" and owner in needed:
            return ""
        if sort == "artifact" and owner in known and not going_on:
            return "only runs that are not kept need it"
        return "" if going_on else "no run needs it"

    parts = {part: reason(sort, owner) for part, sort, owner in map(_part, inventory.files) if part}
    return {part: why for part, why in sorted(parts.items()) if why}


def verify_artifacts(store: Store, inventory: Inventory) -> Iterator[tuple[str, str]]:
    """Read every file of every artifact; yields each artifact's name and its fault, an empty text where there is none."""
    for artifact in inventory.artifacts.values():
        fault = artifact.fault
        for name, file in artifact.manifest.files.items() if artifact.manifest and not fault else ():
            if not store.is_whole(f"{artifact.name}/{name}", file.sha256):
                fault = f"corrupt: {name} has another sha256"
                break
        yield artifact.name, fault


def _closure(inventory: Inventory, names: Collection[str]) -> set[str]:
    """`names`, all that they started from, and the evaluations of any of these."""
    found: set[str] = set()
    left = list(names)
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += inventory.artifacts[name].sources if name in inventory.artifacts else ()
    return found | {child for name in found for child in inventory.dependants.get(name, ()) if child.startswith("evaluate/")}


def _owned(inventory: Inventory, runs: Collection[str]) -> set[str]:
    return set().union(*(_closure(inventory, names) for run in runs for names in inventory.runs[run].values()))


def _part(path: str) -> tuple[str, str, str]:
    """Part of the store that a file is removed with, its sort and its owner; empty texts for files of others."""
    parts = path.split("/")
    top, depth = parts[0], len(parts)
    if partial := next((n for n, part in enumerate(parts, start=1) if PARTIAL.fullmatch(part)), 0):
        return "/".join(parts[:partial]), "partial", ""
    if top in ARTIFACT_KINDS and depth == 3:
        return "/".join(parts[:2]), "artifact", "/".join(parts[:2])
    if top == "logs" and depth in (3, 4):  # a log, progress; or a folder of curves (jobs/progress_file.py)
        names = parts[2].removesuffix(".txt").removesuffix(".json").split(".")
        return "/".join(parts[:3]), "artifact", f"{parts[1]}/{names[-1]}"
    if parts[:2] == ["results", "cache"] and depth == 4:
        return path, "artifact", "/".join(parts[2:])
    if top in ("checkpoints", "claims") and depth > 3:
        return "/".join(parts[:3]), "work", "/".join(parts[1:3])
    if top == "aside" and depth > 3:
        return "/".join(parts[:3]), "aside", ""
    if top == "runs" and depth > 2:
        return "/".join(parts[:2]), "run", parts[1]
    return "", "", ""

"""Torchvision's checkpoints to model folders of ours, and our weights back to torchvision's names; with an audit, and bit for bit."""

import json
import posixpath
from typing import Any, Literal

import safetensors.numpy
from pydantic import ValidationError

from spnas_core import checkpoint, shapes
from spnas_core.arch import Arch, parse
from spnas_core.audit import Audit, shapes_of
from spnas_core.checkpoint import BACKBONE, Checkpoint
from spnas_core.config import Detector
from spnas_core.data import annotations, files
from spnas_core.errors import UserError
from spnas_core.model_folder import model_document, write_files, write_model
from spnas_core.torchvision_names import to_torchvision

Report = dict[str, Any]
SUFFIX = ".safetensors"


def convert(
    url: str,
    out: str,
    to: Literal["spnas", "torchvision"] = "spnas",
    arch: str | None = None,
    least: float = 0.9,
    epsilon: float | None = None,
    image_size: tuple[int, int] | None = None,
    categories: str | None = None,
) -> Report:
    """Convert the checkpoint `url` and write it to `out`: a model folder, or a .safetensors file with torchvision's names.

    `arch` is the architecture that is expected (a weights file of ours without `model.json` needs it), `least` the share of parameters
    that must be covered (of the backbone, for a classifier), `epsilon` that of the norms where it is not torchvision's own,
    `categories` an annotation file in COCO layout that names the labels. Returns what the command prints. UserError.
    """
    found = checkpoint.read_checkpoint(url)
    wanted = parse(arch) if arch else found.arch
    if wanted is None:
        raise UserError(f"checkpoint {url}: expected --arch, since a weights file of ours does not tell its architecture")
    checkpoint.check_arch(found, wanted)
    if to == "torchvision":
        if epsilon is not None or image_size or categories:
            raise UserError("--to torchvision: expected no --norm-epsilon, --image-size or --categories, since weights do not hold them")
        return _to_torchvision(found, wanted, out, least)
    if found.source == "spnas":
        raise UserError(f"checkpoint {url}: expected weights of torchvision's, got ours (--to torchvision converts them back)")
    given = {"norm_epsilon": epsilon, "image_size": image_size}
    try:
        settings = Detector.model_validate(found.settings | {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"convert: {first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error
    audit, covered = _audit(found, wanted, settings, least)
    labels = _labels(found.classes or 0, categories)
    write_model(out, found.weights, model_document(str(wanted), settings, labels))
    return _report(found, wanted, audit, covered) | {"norm_epsilon": settings.norm_epsilon, "classes": len(labels), "out": out}


def _audit(found: Checkpoint, arch: Arch, settings: Detector, least: float) -> tuple[Audit, float]:
    """Audit of the model folder's tensors, and the share of parameters that counts: a classifier's folder has no neck and no heads."""
    if found.part == BACKBONE:
        own = {name: shape for name, shape in shapes_of(found.weights).items() if name.startswith("score.")}
        wanted = shapes.backbone_shapes(arch, settings) | own
    elif found.classes is None:
        raise UserError(f"checkpoint {found.url}: expected roi_heads.box_predictor.cls_score.weight, which tells the classes, got none")
    else:
        wanted = shapes.detector_shapes(arch, settings, found.classes)
    audit = checkpoint.fit(found, wanted, least)
    return audit, checkpoint.coverage(audit, wanted, found.part)


def _to_torchvision(found: Checkpoint, arch: Arch, out: str, least: float) -> Report:
    if not out.endswith(SUFFIX):
        raise UserError(f"--out {out}: expected a file name that ends in {SUFFIX}")
    names = to_torchvision(arch, found.weights)
    given = shapes_of(found.weights)
    base = given.get("backbone.stem.conv.weight", (64,))[0]
    body = shapes.backbone_shapes(arch, Detector(base_width=base))
    rest = {name: shape for name, shape in given.items() if not name.startswith(BACKBONE)}
    audit = checkpoint.fit(found, body | rest, least if found.arch else 1.0)
    theirs = {names[name]: array for name, array in found.weights.items()}
    folder, name = posixpath.split(files.full_url(*files.open_url(out)))
    write_files(folder or ".", {name: safetensors.numpy.save(theirs)})
    return _report(found, arch, audit, audit.share) | {"out": out}


def _report(found: Checkpoint, arch: Arch, audit: Audit, covered: float) -> Report:
    kind = "classifier" if found.part == BACKBONE else "detector"
    about = {
        "checkpoint": found.url,
        "source": found.source,
        "kind": kind,
        "arch": str(arch),
        "base_width": found.settings.get("base_width"),
    }
    return {**about, "coverage": covered, "counters": list(found.counters), "audit": audit.model}


def _labels(count: int, url: str | None) -> list[tuple[int, str]]:
    """Id and name of labels 1 to `count`: torchvision's labels are category ids; where no file names one, its name is its id."""
    names: dict[int, str] = {}
    if url and not count:
        raise UserError(f"--categories {url}: expected a detector to name the labels of, got a classifier")
    if url:
        try:
            document = json.loads(files.local_file(url).read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"--categories {url}: expected an annotation file in COCO layout, got: {error}") from error
        names = dict(annotations.categories(document, url))
        if max(names) > count or min(names) < 1:
            raise UserError(
                f"--categories {url}: expected ids from 1 to {count}, the labels of the checkpoint, got {min(names)} to {max(names)}"
            )
    return [(label, names.get(label, str(label))) for label in range(1, count + 1)]


def lines(report: Report) -> list[str]:
    """Lines that a person reads of what `convert` returns."""
    audit, counters = report["audit"], len(report["counters"])
    part = "the backbone's" if report["kind"] == "classifier" else "the detector's"
    found = [f"{report['checkpoint']}: {report['source']}'s {report['kind']}, {report['arch']}"]
    counts = [(name, len(audit[name]), audit[f"{name}_params"]) for name in ("copied", "new", "dropped")]
    found += [f"{name:8s} {tensors:4d} tensors  {parameters:12,d} parameters" for name, tensors, parameters in counts]
    found += [f"  {sign} {name}" for sign, key in (("+", "new"), ("-", "dropped")) for name in audit[key]]
    found.append(f"covered  {100 * report['coverage']:.1f} % of {part} parameters")
    if counters:
        found.append(f"left out {counters} num_batches_tracked, which count training steps and take no part in the net")
    if "norm_epsilon" in report:
        why = ", as torchvision sets it for its released COCO weights" if report["norm_epsilon"] == 0 else ""
        found.append(f"norms    epsilon {report['norm_epsilon']:g}{why}")
    return [*found, f"written  {report['out']}"]

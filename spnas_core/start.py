"""The weights that a job starts from: inherited, reignited, from a checkpoint file, or new; and which of them are trained."""

import numpy as np
import numpy.typing as npt
from mindspore import nn
from safetensors.numpy import load_file

from spnas_core import arch as architecture
from spnas_core import checkpoint, morphism
from spnas_core.audit import audit, shapes_of
from spnas_core.config import Detector
from spnas_core.errors import UserError
from spnas_core.job import ReigniteJob, TrainJob, Weights
from spnas_core.model_folder import WEIGHTS
from spnas_core.storage import sha256_file
from spnas_core.store import Store

Arrays = dict[str, npt.NDArray[np.float32]]
FILE, BACKBONE = WEIGHTS, checkpoint.BACKBONE


def gather(weights: tuple[Weights, ...], store: Store) -> tuple[str, Arrays]:
    """Merge weights files of one architecture: later ones replace what earlier ones gave. Returns the architecture and the arrays."""
    merged: Arrays = {}
    for source in weights:
        if source.arch != weights[0].arch:
            raise UserError(f"weights of one job: expected one architecture, got {weights[0].arch} and {source.arch}")
        merged |= load_file(store.fetch(source.kind, source.digest, FILE))
    return weights[0].arch, merged


def start_detector(job: TrainJob, store: Store, fresh: Arrays) -> tuple[Arrays, morphism.Audit]:
    """Weights of a new training, and the audit of where they come from; `fresh` are those of the newly initialised net."""
    if job.weights:
        parent, given = gather(job.weights, store)
        return morphism.inherit(architecture.parse(parent), architecture.parse(job.arch), given, fresh)
    if job.checkpoint:
        path, _ = checkpoint.locate(job.checkpoint)
        if job.checkpoint_sha256 and sha256_file(path) != job.checkpoint_sha256:
            raise UserError(f"checkpoint {job.checkpoint}: expected the file with sha256 {job.checkpoint_sha256}, got another")
        found = checkpoint.read_checkpoint(job.checkpoint)
        arch, least = architecture.parse(job.arch), job.checkpoint_coverage
        filled = checkpoint.start_audit(found, arch, job.detector, shapes_of(fresh), least)
        return fresh | {name: found.weights[name].copy() for name in filled.copied}, filled
    return fresh, audit(shapes_of(fresh), {}, set())


def start_backbone(job: ReigniteJob, store: Store, fresh: Arrays) -> Arrays:
    """Weights of a classifier: the backbone of the job's weights, the rest of `fresh`."""
    if not job.weights:
        return fresh
    _, given = gather(job.weights, store)
    return morphism.load(fresh, given, BACKBONE)[0]


def freeze(net: nn.Cell, arch: architecture.Arch, settings: Detector) -> None:
    """Set `requires_grad` of every parameter: statistics, frozen norms and frozen stages are not trained."""
    still = {f"{BACKBONE}blocks.{block.index}." for block in architecture.blocks(arch) if block.stage < settings.frozen_stages - 1}
    if settings.frozen_stages:
        still.add(f"{BACKBONE}stem.")
    never = (".moving_mean", ".moving_variance", *((".gamma", ".beta") if settings.norm == "frozen" else ()))
    for parameter in net.get_parameters():
        parameter.requires_grad = not (parameter.name.endswith(never) or parameter.name.startswith(tuple(still)))


def choose_trained(net: nn.Cell, job: TrainJob, audit: morphism.Audit) -> None:
    """Freeze what the settings and, with `freeze_inherited`, the inheritance say; what starts at zero is always trained."""
    arch = architecture.parse(job.arch)
    freeze(net, arch, job.detector)
    if job.recipe.freeze_inherited and job.weights:
        names = [parameter.name for parameter in net.get_parameters()]
        allowed = morphism.trainable_when_frozen(architecture.parse(job.weights[0].arch), arch, names)
        for parameter in net.get_parameters():
            parameter.requires_grad = parameter.requires_grad and parameter.name in allowed
    for parameter in net.get_parameters():
        if parameter.name in audit.zero:
            parameter.requires_grad = True


def decays(net: nn.Cell, weight_decay: float, norm_and_bias: bool) -> tuple[float, ...]:
    """Weight decay of each trained parameter."""
    spared = () if norm_and_bias else (".gamma", ".beta", ".bias")
    return tuple(0.0 if parameter.name.endswith(spared) else weight_decay for parameter in net.trainable_params())

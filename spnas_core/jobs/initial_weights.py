"""Initial weights of a job: inherited, reignited, from a checkpoint file, or new; and which parameters are trained."""

from mindspore import nn
from safetensors.numpy import load_file

from spnas_core import arch as architecture
from spnas_core.errors import UserError
from spnas_core.job import ReigniteJob, SupernetJob, TrainJob, Weights
from spnas_core.names import WEIGHTS_FILE
from spnas_core.search.family import family_of
from spnas_core.settings.detector import Detector
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import sha256_file
from spnas_core.weights import adopt, checkpoint, inherit, paths
from spnas_core.weights.adopt import Audit
from spnas_core.weights.tensor_names import AFFINE, BACKBONE, BIAS, STATISTICS, STEM, Arrays, block_name


def merge_weights(weights: tuple[Weights, ...], store: Store) -> tuple[str, Arrays]:
    """Merge weights files of one architecture; later files override earlier ones. Returns the architecture and the arrays."""
    merged: Arrays = {}
    for source in weights:
        if source.arch != weights[0].arch:
            raise UserError(f"weights of one job: expected one architecture, got {weights[0].arch} and {source.arch}")
        if source.kind == "reignite":  # a whole backbone, possibly with another stem
            merged = {name: array for name, array in merged.items() if not name.startswith(BACKBONE)}
        found: Arrays = load_file(store.fetch(source.kind, source.digest, WEIGHTS_FILE))
        merged |= member_weights(source, store, found) if source.kind == "supernet" else found
    return weights[0].arch, merged


def member_weights(source: Weights, store: Store, arrays: Arrays) -> Arrays:
    """Weights of a path of a supernet that has the weights `arrays`; its norms have the statistics of no data."""
    manifest = store.find("supernet", source.digest)
    assert manifest  # its weights were read
    job = SupernetJob.model_validate(manifest.job)
    cut = paths.path_weights(arrays, family_of(job.arch, job.family, job.blocks), architecture.parse(source.arch), job.detector.base_width)
    return paths.reset_statistics(cut)


def start_detector(job: TrainJob, store: Store, fresh: Arrays) -> tuple[Arrays, Audit]:
    """Weights that a training starts from, and the audit of their origin; `fresh` are the weights of the newly initialised net."""
    if job.weights:
        text, weights = merge_weights(job.weights, store)
        parent, child = architecture.parse(text), architecture.parse(job.arch)
        return inherit.inherit(parent, child, weights, fresh, base_width=job.detector.base_width, leaves_out=job.leaves_out)
    if job.checkpoint:
        return _start_from_file(job, job.checkpoint, fresh)
    count = sum(array.size for name, array in fresh.items() if not name.endswith(STATISTICS))
    return fresh, Audit((), tuple(sorted(fresh)), (), (), 0, count, 0)


def _start_from_file(job: TrainJob, url: str, fresh: Arrays) -> tuple[Arrays, Audit]:
    path = checkpoint.open_checkpoint(url)
    if sha256_file(path) != job.checkpoint_sha256:
        raise UserError(f"checkpoint {url}: expected the file with sha256 {job.checkpoint_sha256}, got another")
    start = checkpoint.start_from_file(url, architecture.parse(job.arch), job.detector, fresh, job.checkpoint_coverage)
    return adopt.put_copies(fresh, start.weights, start.copied), start.audit


def start_backbone(job: ReigniteJob, store: Store, fresh: Arrays) -> Arrays:
    """Weights that a classifier starts from: the backbone of the job's weights, without a stem of the other kind; the rest from `fresh`."""
    if not job.weights:
        return fresh
    _, weights = merge_weights(job.weights, store)
    stems = [{name for name in arrays if name.startswith(STEM)} for arrays in (fresh, weights)]
    if stems[0] == stems[1]:
        return adopt.load_same(fresh, weights, BACKBONE)[0]
    body = {name: array for name, array in fresh.items() if name not in stems[0]}
    rest = {name: array for name, array in weights.items() if name not in stems[1]}
    return fresh | adopt.load_same(body, rest, BACKBONE)[0]


def freeze(net: nn.Cell, arch: architecture.Arch, settings: Detector) -> None:
    """Set `requires_grad` of every parameter: False for statistics, the backbone's frozen norms and frozen stages."""
    still = {block_name(block.index) for block in architecture.blocks(arch) if block.stage < settings.frozen_stages - 1}
    if settings.frozen_stages:
        still.add(STEM)
    frozen = AFFINE if settings.norm == "frozen" else ()
    for parameter in net.get_parameters():
        name = parameter.name
        never = name.endswith(STATISTICS) or (name.startswith(BACKBONE) and name.endswith(frozen))
        parameter.requires_grad = not (never or name.startswith(tuple(still)))


def choose_trained(net: nn.Cell, job: TrainJob, audit: Audit) -> None:
    """Freeze parameters as the settings and, with `freeze_inherited`, the inheritance say; new tensors are always trained.

    So are those that were widened or narrowed. So a block inserted into a frozen stage, or into a net with frozen norms, trains all its
    convolutions, gammas and betas; its norms keep the statistics of the identity (mean 0, variance 1).
    """
    arch = architecture.parse(job.arch)
    freeze(net, arch, job.detector)
    if job.recipe.freeze_inherited and job.weights:
        names = [parameter.name for parameter in net.get_parameters()]
        parent = architecture.parse(job.weights[0].arch)
        allowed = inherit.trainable_when_frozen(parent, arch, names, job.detector.base_width, job.leaves_out)
        for parameter in net.get_parameters():
            parameter.requires_grad = parameter.requires_grad and parameter.name in allowed
    new = {*audit.new, *audit.resized}
    for parameter in net.get_parameters():
        if parameter.name in new and not parameter.name.endswith(STATISTICS):
            parameter.requires_grad = True


def decays(net: nn.Cell, weight_decay: float, norm_and_bias: bool) -> tuple[float, ...]:
    """Weight decay of each trained parameter."""
    spared = () if norm_and_bias else (*AFFINE, BIAS)
    return tuple(0.0 if parameter.name.endswith(spared) else weight_decay for parameter in net.trainable_params())

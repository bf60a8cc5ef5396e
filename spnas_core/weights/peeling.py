"""The net in a checkpoint file: its tensors, without the keys and prefixes that other programs put before their names.

Keys of nested dictionaries and prefixes of names are one thing here: ``model_state_dict.module.layer1.0.conv1.weight`` is a tensor in a
dictionary, or the name of one in a flat file. A net is wherever the first convolution of its first block is, with torchvision's name or
this program's. Wrappers (``module``, ``_orig_mod`` and the like) are left out inside the names, too.

Of several nets in a file, those that are the given architecture count, if there are any; of these the one whose prefix has the first words
of `ORDER`. So trained weights go before averaged ones (``ema``, ``teacher``), in every file.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from spnas_core.arch import Arch
from spnas_core.errors import UserError
from spnas_core.weights.tensor_names import BLOCKS
from spnas_core.weights.torchvision_names import infer_arch

TensorShapes = Mapping[str, tuple[int, ...]]  # of tensors by name
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_TRAINED = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "params", "detector", "student")
_PARTS = ("backbone", "encoder", "body", "encoder_q", "base_encoder", "online_encoder")
_AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "params_ema", "teacher", "encoder_k", "momentum_encoder")
ORDER = (*_WRAPPERS, *_TRAINED, *_PARTS, "", *_AVERAGED)  # the empty one stands for all other words
_STATES = ("optimizer", "optimizers", "optim", "exp_avg", "exp_avg_sq", "momentum_buffer", "grad", "grads")  # have the names of nets
_BODY = ("backbone", "body")
_FIRST = (("layer1", "0", "conv1", "weight"), ("backbone", "blocks", "0", "conv1", "weight"))
_SHOWN = 4  # prefixes named in a line


class NetNames(NamedTuple):
    """Names in the file of the tensors of a net, by their names in the net; and what was taken off or left out, "" if nothing."""

    names: dict[str, str]
    peeled: str = ""


def find_net(shapes: TensorShapes, arch: Arch | None = None) -> NetNames:
    """Find the net among tensors; all of them where no net is; UserError for several, none of which goes before the others."""
    prefixes = sorted({prefix for name in shapes if (prefix := _before_net(name)) is not None})
    if not prefixes:
        common = _common(shapes)
        return NetNames({name.removeprefix(common): name for name in shapes}, _told(common, [], 0))
    nets = {prefix: _members(shapes, prefix, prefixes) for prefix in prefixes}
    fitting = [prefix for prefix in prefixes if arch and _is_arch(nets[prefix], shapes, arch)] or prefixes
    first, *others = sorted(fitting, key=_rank)
    if others and _rank(first) == _rank(others[0]):
        raise UserError(f"expected one net, got several: {_listed(fitting)}; --arch or a file of one of them decides")
    left = len(shapes) - sum(map(len, nets.values()))
    return NetNames(nets[first], _told(first, [prefix for prefix in prefixes if prefix != first], left))


def _before_net(name: str) -> str | None:
    """Part of a name before that of the net, with its last dot; None of any other tensor than the first convolution of a net."""
    parts = name.split(".")
    kept = [place for place, part in enumerate(parts) if part not in _WRAPPERS]
    words = tuple(parts[place] for place in kept)
    for first in _FIRST:
        start = len(words) - len(first)
        if start >= 0 and words[start:] == first and not set(words[:start]) & set(_STATES):
            start -= len(_BODY) if words[:start][-len(_BODY) :] == _BODY else 0
            return "".join(f"{part}." for part in parts[: kept[start]])
    return None


def _members(shapes: TensorShapes, prefix: str, prefixes: Iterable[str]) -> dict[str, str]:
    """Names in the file of the tensors below `prefix` and below no longer one, by their names without wrappers."""
    inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    found: dict[str, str] = {}
    for name in shapes:
        if name.startswith(prefix) and not name.startswith(inner):
            own = ".".join(part for part in name.removeprefix(prefix).split(".") if part not in _WRAPPERS)
            if own in found:
                raise UserError(f"expected one tensor {own}, got {found[own]!r} and {name!r}")
            found[own] = name
    return found


def _is_arch(names: Mapping[str, str], shapes: TensorShapes, arch: Arch) -> bool:
    if ours := {name.removeprefix(BLOCKS).split(".")[0] for name in names if name.startswith(BLOCKS)}:
        return len(ours) == len(arch.digits)
    try:
        found = infer_arch({own: shapes[name] for own, name in names.items()})
    except UserError:
        return False
    return (found.block_type, found.stages) == (arch.block_type, arch.stages)


def _rank(prefix: str) -> int:
    """Place in `ORDER` of the last word, in this order, of a prefix."""
    return max((ORDER.index(word if word in ORDER else "") for word in prefix.split(".")[:-1]), default=-1)


def _common(names: Iterable[str]) -> str:
    """Longest prefix of known words that all names have."""
    found = ""
    for words in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(words)) > 1 or words[0] not in (*_WRAPPERS, *_TRAINED):
            break
        found += f"{words[0]}."
    return found


def _told(prefix: str, others: list[str], left: int) -> str:
    said = [f"{prefix!r} taken off the names"] if prefix else []
    said += [f"other nets in the file left out: {_listed(others)}"] if others else []
    said += [f"tensors beside the net left out: {left}"] if left else []
    return "; ".join(said)


def _listed(prefixes: list[str]) -> str:
    more = ["..."] if len(prefixes) > _SHOWN else []
    return ", ".join([*(repr(prefix) if prefix else "the names without a prefix" for prefix in prefixes[:_SHOWN]), *more])

"""A candidate as one value: all of a detector that a search may choose, with one text.

``r_111-2111-211111-211_0-0-0-0+fpn256+7x7+faster_rcnn`` is ResNet-50 with torchvision's pyramid, stem and head. Where a search chooses
the base width, the size of the network input or the proposals too, they follow: ``...+w48+640x800+p100`` (channels after the stem; height
x width, px; proposals in inference).
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, PlainSerializer

from spnas_core.arch import Arch, parse
from spnas_core.cost import Size, Stem
from spnas_core.errors import UserError
from spnas_core.necks import CellNeck, Neck, parse_neck
from spnas_core.necks.nas_fpn import NasFpn
from spnas_core.settings.detector import HEAD_KINDS, Detector, TwoStageHead

_GENES = re.compile(r"(?:\+w([1-9]\d*))?(?:\+([1-9]\d*)x([1-9]\d*))?(?:\+p([1-9]\d*))?")


@dataclass(frozen=True)
class Net:
    """One candidate: backbone, neck, stem, and the kind of its head; all else of its detector is a setting of the run.

    `width` (channels after the stem), `size` (height, width of the network input, px) and `proposals` (of a two-stage head, in inference)
    are None where they are those of the run.
    """

    arch: Arch
    neck: Neck
    stem: Stem
    head: str
    width: int | None = None
    size: Size | None = None
    proposals: int | None = None

    def __str__(self) -> str:
        """Canonical text, `ARCH+NECK+STEM+HEAD[+wWIDTH][+HxW][+pPROPOSALS]`; ``parse_net(str(net)) == net``."""
        genes = (*((f"w{self.width}",) if self.width else ()), *(("x".join(map(str, self.size)),) if self.size else ()))
        genes += (f"p{self.proposals}",) if self.proposals else ()
        return "+".join((str(self.arch), self.neck.text, self.stem, self.head, *genes))

    @property
    def identity(self) -> Hashable:
        """Identity of a candidate, for de-duplication: nets with equal ones are the same, but for their stem."""
        return self.arch, self.neck.identity(self.arch), self.width, self.size, self.head, self.proposals

    def detector(self, settings: Detector) -> Detector:
        """Return the settings of its detector, those of the run being `settings`."""
        return _detector(self, settings)


@lru_cache(maxsize=4096)
def _detector(net: Net, settings: Detector) -> Detector:
    head = settings.head_of(net.head)
    if net.proposals:
        head = head.model_copy(update={"proposals_test": net.proposals})
    genes = {"base_width": net.width or settings.base_width, "image_size": net.size or settings.image_size}
    return settings.model_copy(update={"neck": net.neck, "stem": net.stem, "head": head, "other_heads": (), **genes})


def net_of(arch: Arch | str, detector: Detector, settings: Detector | None = None) -> Net:
    """Candidate that a detector with the backbone `arch` is, in a run with the `settings`; without these, in a run with its own."""
    value = parse(arch) if isinstance(arch, str) else arch
    run = settings or detector
    width = detector.base_width if detector.base_width != run.base_width else None
    size = detector.image_size if detector.image_size != run.image_size else None
    head, proposals = detector.head, None
    if isinstance(head, TwoStageHead) and head.proposals_test != getattr(run.head_of(head.kind), "proposals_test", None):
        proposals = head.proposals_test
    return Net(value, detector.neck, detector.stem, head.kind, width, size, proposals)


def gene_words(net: Net, start: Net) -> str:
    """Say what of a whole net is other than in the start net of its run: head, neck, base width, input, proposals."""
    words = [net.head.replace("_", " ")] if net.head != start.head else []
    other = net.neck.kind != start.neck.kind
    words += [f"neck {net.neck.text}"] if other else []
    words += [f"base width {net.width}"] if net.width else []
    words += [f"input {net.size[0]}x{net.size[1]}"] if net.size else []
    words += [] if other else _neck_words(net.neck, start.neck)
    words += [f"{net.proposals} proposals"] if net.proposals else []
    return ", ".join(words)


def _neck_words(neck: Neck, before: Neck) -> list[str]:
    words = [f"pyramid of {neck.channels} channels"] if neck.channels != before.channels else []
    if isinstance(neck, NasFpn) and isinstance(before, NasFpn):
        words += [f"{neck.stacks} stacks"] if neck.stacks != before.stacks else []
    if isinstance(neck, CellNeck) and isinstance(before, CellNeck):
        words += [f"cells {neck.cells}"] if neck.cells != before.cells else []
    return words


def parse_net(text: str) -> Net:
    """Read a net's text; UserError where it is none."""
    parts = text.split("+")
    if len(parts) < 4:
        raise UserError(f"net {text!r}: expected ARCH+NECK+STEM+HEAD, got {len(parts)} parts")
    arch, neck, stem, head, *genes = parts
    if not (found := _GENES.fullmatch("+".join(("", *genes)))):
        raise UserError(f"net {text!r}: expected +wWIDTH, +HxW and +pPROPOSALS after {head}, got {'+'.join(genes)!r}")
    width, height, across, proposals = (int(number) if number else None for number in found.groups())
    for given, known in ((stem, get_args(Stem)), (head, HEAD_KINDS)):
        if given not in known:
            raise UserError(f"net {text!r}: expected one of {', '.join(known)}, got {given!r}")
    size = (height, across) if height and across else None
    return Net(parse(arch), parse_neck(neck), stem, head, width, size, proposals)  # type: ignore[arg-type]


def _read(value: Any) -> Any:
    return parse_net(value) if isinstance(value, str) else value


NetText = Annotated[Net, BeforeValidator(_read), PlainSerializer(str, return_type=str)]  # a net that is its text in JSON

"""A candidate as one value: all of a detector that a search may choose, with one text.

``r_111-2111-211111-211_0-0-0-0+fpn256+7x7+faster_rcnn`` is ResNet-50 with torchvision's pyramid, stem and head. Where a search chooses
the base width or the size of the network input too, they follow: ``...+w48+640x800`` (channels after the stem; height x width, px).
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
from spnas_core.necks import Neck, parse_neck
from spnas_core.necks.nas_fpn import NasFpn
from spnas_core.settings.detector import HEAD_KINDS, Detector

_GENES = re.compile(r"(?:\+w([1-9]\d*))?(?:\+([1-9]\d*)x([1-9]\d*))?")


@dataclass(frozen=True)
class Net:
    """One candidate: backbone, neck, stem, and the kind of its head; all else of its detector is a setting of the run.

    `width` (channels after the stem) and `size` (height, width of the network input, px) are None where they are those of the run.
    """

    arch: Arch
    neck: Neck
    stem: Stem
    head: str
    width: int | None = None
    size: Size | None = None

    def __str__(self) -> str:
        """Canonical text, `ARCH+NECK+STEM+HEAD[+wWIDTH][+HxW]`; ``parse_net(str(net)) == net``."""
        genes = (*((f"w{self.width}",) if self.width else ()), *(("x".join(map(str, self.size)),) if self.size else ()))
        return "+".join((str(self.arch), self.neck.text, self.stem, self.head, *genes))

    @property
    def identity(self) -> Hashable:
        """Identity of a candidate, for de-duplication: nets with equal ones are the same, but for their stem."""
        return self.arch, self.neck.identity(self.arch), self.width, self.size

    def detector(self, settings: Detector) -> Detector:
        """Return the settings of its detector, those of the run being `settings`."""
        return _detector(self, settings)


@lru_cache(maxsize=4096)
def _detector(net: Net, settings: Detector) -> Detector:
    head = {**settings.head.model_dump(), "kind": net.head}
    genes = {"base_width": net.width or settings.base_width, "image_size": net.size or settings.image_size}
    return settings.model_copy(update={"neck": net.neck, "stem": net.stem, "head": head, **genes})


def net_of(arch: Arch | str, detector: Detector, settings: Detector | None = None) -> Net:
    """Candidate that a detector with the backbone `arch` is, in a run with the `settings`; without these, in a run with its own."""
    value = parse(arch) if isinstance(arch, str) else arch
    run = settings or detector
    width = detector.base_width if detector.base_width != run.base_width else None
    size = detector.image_size if detector.image_size != run.image_size else None
    return Net(value, detector.neck, detector.stem, detector.head.kind, width, size)


def gene_words(net: Net, start: Net) -> str:
    """Say what of a whole net is other than in the start net of its run: base width, network input, pyramid's channels and cells."""
    words = [f"base width {net.width}"] if net.width else []
    words += [f"input {net.size[0]}x{net.size[1]}"] if net.size else []
    words += [f"pyramid of {net.neck.channels} channels"] if net.neck.channels != start.neck.channels else []
    words += [f"cells {net.neck.cells}"] if isinstance(net.neck, NasFpn) and net.neck.cells != start.neck.cells else []
    return ", ".join(words)


def parse_net(text: str) -> Net:
    """Read a net's text; UserError where it is none."""
    parts = text.split("+")
    if len(parts) < 4:
        raise UserError(f"net {text!r}: expected ARCH+NECK+STEM+HEAD, got {len(parts)} parts")
    arch, neck, stem, head, *genes = parts
    if not (found := _GENES.fullmatch("+".join(("", *genes)))):
        raise UserError(f"net {text!r}: expected +wWIDTH and +HxW after {head}, got {'+'.join(genes)!r}")
    width, height, across = (int(number) if number else None for number in found.groups())
    for given, known in ((stem, get_args(Stem)), (head, HEAD_KINDS)):
        if given not in known:
            raise UserError(f"net {text!r}: expected one of {', '.join(known)}, got {given!r}")
    size = (height, across) if height and across else None
    return Net(parse(arch), parse_neck(neck), stem, head, width, size)  # type: ignore[arg-type]


def _read(value: Any) -> Any:
    return parse_net(value) if isinstance(value, str) else value


NetText = Annotated[Net, BeforeValidator(_read), PlainSerializer(str, return_type=str)]  # a net that is its text in JSON

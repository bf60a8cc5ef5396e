"""A candidate as one value: all of a detector that a search may choose, with one text.

``r_111-2111-211111-211_0-0-0-0+fpn256+7x7+faster_rcnn`` is ResNet-50 with torchvision's pyramid, stem and head.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, PlainSerializer

from spnas_core.arch import Arch, parse
from spnas_core.cost import Stem
from spnas_core.errors import UserError
from spnas_core.necks import Neck, parse_neck
from spnas_core.settings.detector import HEAD_KINDS, Detector


@dataclass(frozen=True)
class Net:
    """One candidate: backbone, neck, stem, and the kind of its head; all else of its detector is a setting of the run."""

    arch: Arch
    neck: Neck
    stem: Stem
    head: str

    def __str__(self) -> str:
        """Canonical text, `ARCH+NECK+STEM+HEAD`; ``parse_net(str(net)) == net``."""
        return "+".join((str(self.arch), self.neck.text, self.stem, self.head))

    def detector(self, settings: Detector) -> Detector:
        """Return the settings of its detector, those of the run being `settings`."""
        return _detector(self, settings)


@lru_cache(maxsize=4096)
def _detector(net: Net, settings: Detector) -> Detector:
    head = {**settings.head.model_dump(), "kind": net.head}
    return settings.model_copy(update={"neck": net.neck, "stem": net.stem, "head": head})


def net_of(arch: Arch | str, detector: Detector) -> Net:
    """Candidate that a detector with the backbone `arch` is."""
    return Net(parse(arch) if isinstance(arch, str) else arch, detector.neck, detector.stem, detector.head.kind)


def parse_net(text: str) -> Net:
    """Read a net's text; UserError where it is none."""
    parts = text.split("+")
    if len(parts) != 4:
        raise UserError(f"net {text!r}: expected ARCH+NECK+STEM+HEAD, got {len(parts)} parts")
    arch, neck, stem, head = parts
    for found, known in ((stem, get_args(Stem)), (head, HEAD_KINDS)):
        if found not in known:
            raise UserError(f"net {text!r}: expected one of {', '.join(known)}, got {found!r}")
    return Net(parse(arch), parse_neck(neck), stem, head)  # type: ignore[arg-type]


def _read(value: Any) -> Any:
    return parse_net(value) if isinstance(value, str) else value


NetText = Annotated[Net, BeforeValidator(_read), PlainSerializer(str, return_type=str)]  # a net that is its text in JSON

"""A backbone as an image classifier: mean of its last stage, one linear layer. Used to reignite a searched backbone.

Shape shorthand: B images of S x S px, K classes. Source: SP-NAS, CVPR 2020, section 3.2 (re-ignition).
"""

from mindspore import Tensor, nn, ops

from spnas_core import arch as architecture
from spnas_core.arch import Arch
from spnas_core.models import primitives as p
from spnas_core.models.backbone import Backbone
from spnas_core.models.ranks import rank
from spnas_core.settings.detector import Detector


class Classifier(nn.Cell):
    """Scores (B, K) of images (B, 3, S, S); the backbone has the names it has in the detector, and its norms are always trained."""

    def __init__(self, arch: Arch, settings: Detector, classes: int) -> None:
        super().__init__()
        last = architecture.levels(arch, settings.base_width)[-1]
        epsilon = max(settings.norm_epsilon, 1e-5)
        self.backbone = Backbone(arch, settings.base_width, settings.stem, epsilon, False, settings.share_weights)
        self.mean = ops.ReduceMean()
        self.score = nn.Dense(last.channels, classes)
        self.ranks = rank().of

    def construct(self, images: Tensor) -> Tensor:
        """Scores (B, K) before softmax."""
        return self.score(self.mean(self.backbone(images)[-1], (2, 3)))

    def losses(self, images: Tensor, target: Tensor) -> Tensor:
        """Cross entropy (1,) against class weights (B, K) that sum to one per image; each rank gives its share of the whole batch's."""
        log_shares = p.log_softmax(self.construct(images))
        return -p.reshape(p.total(log_shares * target), (1,)) / float(images.shape[0] * self.ranks)

"""Serial/parallel residual backbone of any number of stages.

Shape shorthand: B images, C channels, H and W rows and columns at the stride of a stage.
Source: SP-NAS, CVPR 2020, section 3 and the authors' release.
"""

from mindspore import Tensor, nn, ops

from spnas_core import arch as architecture
from spnas_core.arch import Arch
from spnas_core.models import primitives as p
from spnas_core.models.blocks import ResidualBlock, Shortcut, StemCell


def upsample(x: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour doubling of (B, C, h, w), cut to (B, C, height, width)."""
    b, c, h, w = x.shape
    if (h, w) == (height, width):
        return x
    x = p.reshape(ops.BroadcastTo((b, c, h, 2, w, 2))(p.reshape(x, (b, c, h, 1, w, 1))), (b, c, 2 * h, 2 * w))
    if (2 * h, 2 * w) == (height, width):
        return x
    return p.slice_strided(x, (0, 0, 0, 0), (b, c, height, width), (1, 1, 1, 1))


class Backbone(nn.Cell):
    """Serial stages with parallel copies; outputs one tensor (B, C_l, H_l, W_l) per stage, see `arch.levels`.

    Copies run in the order of `arch.copy_runs`; 1x1 connections, upsampled to the stage's input, link them to each other and to the main
    stage.
    """

    def __init__(self, arch: Arch, width: int, stem: str, epsilon: float, frozen: bool, share_weights: bool) -> None:
        super().__init__()
        plan = architecture.blocks(arch, width)
        self.stem = StemCell(width, stem, epsilon, frozen)
        self.blocks = nn.CellList([ResidualBlock(block, arch.block_type, epsilon, frozen) for block in plan])
        stages = [[block for block in plan if block.stage == stage] for stage in range(len(arch.stages))]
        self.ranges = tuple((members[0].index, members[-1].index + 1) for members in stages)
        self.runs = tuple(tuple(map(tuple, runs)) for runs in architecture.copy_runs(arch))  # plain ones, for the graph compiler
        self.share_weights = share_weights
        if any(arch.parallel):
            pairs = list(zip(stages, arch.parallel, strict=True))
            self.connect = nn.CellList(
                [
                    nn.CellList(
                        [
                            Shortcut(members[-1].out_channels, members[0].in_channels, 1, epsilon, frozen, gamma=0.0)
                            for _ in range(min(copies, 1) if share_weights else copies)
                        ]
                    )
                    for members, copies in pairs
                ]
            )
            if not share_weights:
                self.copies = nn.CellList(
                    [
                        nn.CellList(
                            [
                                nn.CellList([ResidualBlock(block, arch.block_type, epsilon, frozen) for block in members])
                                for _ in range(copies)
                            ]
                        )
                        for members, copies in pairs
                    ]
                )

    def stage(self, level: int, x: Tensor) -> Tensor:
        """Run the main blocks of one stage."""
        first, last = self.ranges[level]
        for index in range(first, last):
            x = self.blocks[index](x)
        return x

    def copy(self, level: int, number: int, x: Tensor) -> Tensor:
        """Run copy `number` of one stage."""
        if self.share_weights:
            return self.stage(level, x)
        for block in self.copies[level][number]:
            x = block(x)
        return x

    def construct(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to the stages' outputs."""
        x = self.stem(image)
        outputs: tuple[Tensor, ...] = ()
        previous: tuple[Tensor, ...] = ()
        for level in range(len(self.ranges)):
            height, width = x.shape[2:]
            kept: tuple[Tensor, ...] = ()
            carry: Tensor | None = None
            for number, source, stays in self.runs[level]:
                z = x if source < 0 else previous[source]
                z = self.copy(level, number, z if carry is None else z + carry)
                if stays:
                    kept = (z, *kept)
                carry = upsample(self.connect[level][0 if self.share_weights else number](z), height, width)
            x = self.stage(level, x if carry is None else x + carry)
            previous = kept
            outputs = (*outputs, x)
        return outputs

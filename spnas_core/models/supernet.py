"""Detector whose backbone is a family of backbones in one compiled graph: which member it is, is an input (search/family.py).

Each slot has its weights once. At each place, that is in each stage in which a member has it, and as its first block or not, it has
operators and norm statistics of its own. Every place is computed, and its gate lets its residual branch, or the whole block where that has
a projection, through or not; so all that a member does not have adds exactly 0. Only the first places of a stage may bring a run into
being, and one of them is on. Masks cut inner channels.

Statistics are those of the last batch alone, for `jobs/paths.py` to average; the stages' outputs are filled up with zeros to the most
channels of any member. Shape shorthand: B images, C channels, K places, E ends, I inner channels of all pairs of stage and run.
"""

from typing import NamedTuple

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from spnas_core import arch as architecture
from spnas_core.arch import Block, BlockType
from spnas_core.models import primitives as p
from spnas_core.models.blocks import Conv, Norm, StemCell
from spnas_core.models.faster_rcnn import FasterRCNN
from spnas_core.search.family import Family
from spnas_core.search.paths import widths
from spnas_core.settings.detector import Detector

LAST_BATCH = 1.0  # momentum by which the statistics of a batch replace those before


class Affine(nn.Cell):
    """Scale and shift of a norm (C,), shared by all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = Parameter(ops.ones((channels,), ms.float32), name="gamma")
        self.beta = Parameter(ops.zeros((channels,), ms.float32), name="beta")


class PlaceNorm(nn.Cell):
    """Batch norm (B, C, H, W) with the statistics of one place."""

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.moving_mean = Parameter(ops.zeros((channels,), ms.float32), name="moving_mean", requires_grad=False)
        self.moving_variance = Parameter(ops.ones((channels,), ms.float32), name="moving_variance", requires_grad=False)
        self.batch_norm = ops.BatchNorm(is_training=True, epsilon=epsilon, momentum=LAST_BATCH)
        self.constant_norm = ops.BatchNorm(is_training=False, epsilon=epsilon)

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Normalise by the statistics of the batch, which are kept, and in inference by those that were kept."""
        if self.training:
            return self.batch_norm(x, gamma, beta, self.moving_mean, self.moving_variance)[0]
        return self.constant_norm(x, gamma, beta, self.moving_mean, self.moving_variance)[0]


class _At(nn.Cell):
    """Operators and statistics of a block at one place; `first`: with stride 2 and a projection."""

    def __init__(self, block: Block, kind: BlockType, first: bool, epsilon: float) -> None:
        super().__init__()
        inner, out, stride = block.inner_channels, block.out_channels, 2 if first else 1
        if kind.expansion == 1:
            self.conv1 = ops.Conv2D(inner, 3, pad_mode="pad", pad=1, stride=stride)
            self.conv2 = ops.Conv2D(out, 3, pad_mode="pad", pad=1)
        else:
            self.conv1 = ops.Conv2D(inner, 1)
            self.conv2 = ops.Conv2D(inner, 3, pad_mode="pad", pad=1, stride=stride, group=kind.groups)
            self.conv3 = ops.Conv2D(out, 1)
            self.bn3 = PlaceNorm(out, epsilon)
        self.bn1 = PlaceNorm(inner, epsilon)
        self.bn2 = PlaceNorm(out if kind.expansion == 1 else inner, epsilon)
        self.projects = first or block.in_channels != block.out_channels
        if self.projects:
            self.shortcut = _Project(out, stride, epsilon)


class _Project(nn.Cell):
    """Operator and statistics of a projection at one place."""

    def __init__(self, out: int, stride: int, epsilon: float) -> None:
        super().__init__()
        self.conv = ops.Conv2D(out, 1, stride=stride)
        self.bn = PlaceNorm(out, epsilon)

    def construct(self, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride)."""
        return self.bn(self.conv(x, weight), gamma, beta)


class _Projection(nn.Cell):
    """Weights of a projection."""

    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.conv, self.bn = Conv(inputs, out, 1), Affine(out)


class SlotBlock(nn.Cell):
    """Weights of one slot, and its places; `firsts` says of each place whether it is the first of its stage."""

    def __init__(self, block: Block, kind: BlockType, firsts: tuple[bool, ...], epsilon: float) -> None:
        super().__init__()
        inputs, inner, out = block.in_channels, block.inner_channels, block.out_channels
        self.basic = kind.expansion == 1
        if self.basic:
            self.conv1, self.bn1 = Conv(inputs, inner, 3), Affine(inner)
            self.conv2, self.bn2 = Conv(inner, out, 3), Affine(out)
        else:
            self.conv1, self.bn1 = Conv(inputs, inner, 1), Affine(inner)
            self.conv2, self.bn2 = Conv(inner, inner, 3, groups=kind.groups), Affine(inner)
            self.conv3, self.bn3 = Conv(inner, out, 1), Affine(out)
        if any(firsts) or inputs != out:
            self.shortcut = _Projection(inputs, out)
        self.places = nn.CellList([_At(block, kind, first, epsilon) for first in firsts])

    def at(self, number: int, x: Tensor, gate: Tensor, mask: Tensor | None) -> Tensor:
        """Run the block at place `number` on x (B, C, H, W), after a ReLU, with a mask (1, I, 1, 1) of its inner channels, if any.

        With the gate 0 it gives x, or zeros where the place has a projection.
        """
        place = self.places[number]
        y = p.relu(place.bn1(place.conv1(x, self.conv1.weight), self.bn1.gamma, self.bn1.beta))
        y = y if mask is None else y * mask
        y = place.bn2(place.conv2(y, self.conv2.weight), self.bn2.gamma, self.bn2.beta)
        if not self.basic:
            y = p.relu(y) if mask is None else p.relu(y) * mask
            y = place.bn3(place.conv3(y, self.conv3.weight), self.bn3.gamma, self.bn3.beta)
        if place.projects:
            own = self.shortcut
            return p.relu(place.shortcut(x, own.conv.weight, own.bn.gamma, own.bn.beta) + y) * gate
        return p.relu(x + y * gate)


class _Move(NamedTuple):
    """One place in the order of computing: its slot and number there, the runs that it reads and writes, and where its mask begins.

    `first`: it reads the stage before; `adds`: what it gives is added to what the places before it in this stage have written.
    """

    slot: int
    number: int
    source: int
    run: int
    mask: int
    inner: int
    first: bool
    adds: bool


class SuperBackbone(nn.Cell):
    """All members of a family; outputs one tensor (B, C_l, H_l, W_l) per stage, C_l the most channels of any member, the rest zero."""

    def __init__(self, family: Family, width: int, stem: str, epsilon: float) -> None:
        super().__init__()
        blocks = architecture.blocks(family.union, width)
        self.stem = StemCell(width, stem, epsilon, False)
        for _, cell in self.stem.cells_and_names():
            if isinstance(cell, Norm):
                cell.batch_norm = ops.BatchNorm(is_training=True, epsilon=epsilon, momentum=LAST_BATCH)
        kind, own = family.start.block_type, [[place for place in family.places if place.slot == slot] for slot in range(len(blocks))]
        self.slots = nn.CellList([SlotBlock(blocks[i], kind, tuple(place.first for place in own[i]), epsilon) for i in range(len(blocks))])
        starts, total = {}, 0
        for stage, run in widths(family):
            starts[stage, run] = total
            total += kind.inner(width << run, family.widths[-1])
        self.moves: tuple[tuple[tuple[int, ...], ...], ...] = ()
        for stage in range(len(family.start.stages)):
            written: set[int] = set()
            moves: list[_Move] = []
            for place in family.places:
                if place.stage == stage:
                    slot, number = family.slots[place.slot], own[place.slot].index(place)
                    inner = blocks[place.slot].inner_channels
                    adds = slot.run in written and (place.first or slot.source != slot.run)
                    moves.append(_Move(place.slot, number, slot.source, slot.run, starts[stage, slot.run], inner, place.first, adds))
                    written.add(slot.run)
            self.moves = (*self.moves, tuple(map(tuple, moves)))  # plain ones, for the graph compiler
        self.ends = tuple(tuple(end.run for end in family.ends if end.stage == stage) for stage in range(len(family.start.stages)))
        self.channels = tuple(level.channels for level in architecture.levels(family.union, width))
        self.runs = family.slots[-1].run + 1
        self.masked = len(family.widths) > 1
        self.unstack = ops.Unstack(0)

    def construct(self, image: Tensor, gates: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to the stages' outputs, for the member that gates (K + E,) and masks (I,) choose."""
        x = self.stem(image)
        before = (x,) * self.runs
        gate = self.unstack(gates)
        outputs: tuple[Tensor, ...] = ()
        number = 0
        for level in range(len(self.moves)):
            states = before
            for slot, place, source, run, start, inner, first, adds in self.moves[level]:
                mask: Tensor | None = None
                if self.masked:
                    mask = p.reshape(p.slice_strided(masks, (start,), (start + inner,), (1,)), (1, inner, 1, 1))
                given = x if source < 0 else before[source] if first else states[source]
                y = self.slots[slot].at(place, given, gate[number], mask)
                number += 1
                if adds:
                    y = states[run] + y
                states = (*states[:run], y, *states[run + 1 :])
            before = states
            outputs = (*outputs, states)
        found: tuple[Tensor, ...] = ()
        for level in range(len(self.ends)):
            ends, most = self.ends[level], self.channels[level]
            y = outputs[level][ends[0]]
            if len(ends) > 1:
                y = self.filled(y * gate[number], most)
                for other in range(1, len(ends)):
                    y = y + self.filled(outputs[level][ends[other]] * gate[number + other], most)
            number += len(ends)
            found = (*found, y)
        return found

    def filled(self, x: Tensor, channels: int) -> Tensor:
        """Fill (B, C, H, W) up with zeros to (B, channels, H, W)."""
        batch, own, height, width = x.shape
        if own == channels:
            return x
        return ops.Concat(1)((x, ops.zeros((batch, channels - own, height, width), x.dtype)))


class SuperNet(FasterRCNN):
    """Detector of a family for `classes` classes; all members share neck and heads, which read the stages' outputs filled up.

    It takes the inputs of `FasterRCNN`, and after them those of `search/paths.py` `switches`.
    """

    def __init__(self, family: Family, settings: Detector, classes: int) -> None:
        super().__init__(family.union, settings, classes)
        self.backbone = SuperBackbone(family, settings.base_width, settings.stem, settings.norm_epsilon)

    def member_features(self, images: Tensor, gates: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to the neck's maps for one member."""
        return self.neck(self.backbone(images, gates, masks))  # type: ignore[no-any-return]

    def construct(self, images: Tensor, image_hw: Tensor, gates: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Detect with one member, see `DetectorNet`."""
        return self.find(self.member_features(images, gates, masks), image_hw)

    def losses(self, *batch: Tensor) -> Tensor:
        """Losses of one member, see `FasterRCNN.losses`."""
        return self.compare(self.member_features(batch[0], batch[-2], batch[-1]), *batch[1:-2])

"""Backbone and pyramid as nodes of an ONNX graph, equivalent to `models/backbone.py` and the neck's cell in inference.

Shape shorthand: B images, C channels, H_l and W_l rows and columns of level l.
"""

import numpy as np

from spnas_core import arch as architecture
from spnas_core import cost
from spnas_core.arch import Arch, Block
from spnas_core.cost import Size
from spnas_core.export.graph import Graph, Value
from spnas_core.necks import nas_fcos, nas_fpn
from spnas_core.necks.cells import EPSILON, LEVELS, level_size
from spnas_core.necks.fpn import EXTRA, INNER, LAYER, Fpn
from spnas_core.necks.nas_fcos import ABOVE, ADAPT, ENDS, OPERATIONS, STAGE_INPUTS, NasFcos
from spnas_core.necks.nas_fpn import INPUTS, LATERAL, NasFpn
from spnas_core.settings.detector import Detector
from spnas_core.weights.tensor_names import AFFINE, STATISTICS, STEM, block_name, connection_name, copied_block_name


class Features:
    """Writer of the nodes of one architecture's backbone and pyramid, for so many images at once, any number where `batch` is a text."""

    def __init__(self, graph: Graph, arch: Arch, settings: Detector, batch: int | str = "batch") -> None:
        self.graph = graph
        self.batch = batch
        self.arch = arch
        self.settings = settings
        self.blocks = architecture.blocks(arch, settings.base_width)
        self.sizes = cost.stage_sizes(arch, settings.image_size)

    def pyramid(self, images: Value) -> tuple[Value, ...]:
        """Map images (B, 3, H, W) to maps (B, C, H_l, W_l) of all levels, as the neck's cell gives them."""
        stages, neck = self.backbone(images), self.settings.neck
        if isinstance(neck, NasFpn):
            return self.merging_pyramid(stages, neck)
        if isinstance(neck, NasFcos):
            return self.fusion_pyramid(stages, neck)
        return self.feature_pyramid(stages, neck)

    def feature_pyramid(self, stages: tuple[Value, ...], neck: Fpn) -> tuple[Value, ...]:
        """Map the stages' outputs to the maps of a feature pyramid, as `models/fpn.py`."""
        taps = neck.reads(self.arch)
        merged = {len(stages) - 1: conv(self.graph, stages[-1], f"{INNER}{len(stages) - 1}")}
        for level in range(len(stages) - 2, min(taps) - 1, -1):
            above = self.upsample(merged[level + 1], self.sizes[level + 1], self.sizes[level])
            merged[level] = self.graph("Add", conv(self.graph, stages[level], f"{INNER}{level}"), above)
        outputs = [conv(self.graph, merged[tap], f"{LAYER}{level}") for level, tap in enumerate(taps, neck.first_level)]
        return (*outputs, *self.extra_levels(neck.extra_levels, outputs[-1], stages[-1]))

    def extra_levels(self, kind: str, last: Value, stage: Value) -> tuple[Value, ...]:
        """Write the maps of the levels of this `kind` above the pyramid, from its last output and the last stage."""
        if kind == "none":
            return ()
        if kind == "pool":
            return (self.graph("Slice", last, [0, 0], [1 << 30, 1 << 30], [2, 3], [2, 2]),)
        first = conv(self.graph, stage if kind == "c5" else last, f"{EXTRA}0", 2)
        return first, conv(self.graph, self.graph("Relu", first), f"{EXTRA}1", 2)

    def merging_pyramid(self, stages: tuple[Value, ...], neck: NasFpn) -> tuple[Value, ...]:
        """Map the stages' outputs to P3 to P7, as `models/nas_fpn.py`."""
        sizes = [output.size for output in neck.outputs(self.arch, self.settings.image_size)]

        def layer(x: Value, name: str) -> Value:
            return self.conv_norm(x, f"{name}.conv", f"{name}.bn", epsilon=EPSILON)

        def resize(x: Value, level: int, target: int) -> Value:
            for number in range(level, target):
                x = self.halve(x, sizes[number - LEVELS[0]])
            for number in range(level, target, -1):
                x = self.upsample(x, sizes[number - LEVELS[0]], sizes[number - 1 - LEVELS[0]])
            return x

        nodes = [layer(stages[stage], f"{LATERAL}{stage}") for stage in neck.laterals(self.arch)]
        for number in range(len(nodes), INPUTS):
            nodes.append(self.halve(layer(nodes[-1], f"{EXTRA}{number}"), sizes[number - 1]))
        for stack in range(neck.stacks):
            node_levels = list(LEVELS)
            for number, (cell, merge) in enumerate(zip(neck.graph, nas_fpn.merges(neck.graph), strict=True)):
                x, coarse = (resize(nodes[node], node_levels[node], merge.level) for node in (merge.fine, merge.coarse))
                if merge.attention:
                    coarse = self.graph("Mul", self.graph("Sigmoid", self.graph("GlobalAveragePool", x)), coarse)
                for added in (coarse, *(nodes[node] for node in merge.joined)):
                    x = self.graph("Add", x, added)
                nodes.append(layer(self.graph("Relu", x), nas_fpn.cell_name(stack, number, cell)))
                node_levels.append(merge.level)
            nodes = [nodes[node] for node in nas_fpn.output_nodes(neck.graph)]
        return tuple(nodes)

    def fusion_pyramid(self, stages: tuple[Value, ...], neck: NasFcos) -> tuple[Value, ...]:
        """Map the stages' outputs to P3 to P7, as `models/nas_fcos.py`."""
        cells, channels, size, read = neck.graph, neck.channels, self.settings.image_size, neck.adapts(self.arch)
        sizes = [level_size(level, size) for level in nas_fcos.fusion_levels(cells)]

        def adapt(stage: int) -> Value:
            return self.graph("Relu", self.conv_norm(stages[stage], f"{ADAPT}{stage}.conv", f"{ADAPT}{stage}.bn", epsilon=EPSILON))

        def branch(node: int, operation: str, name: str, concatenates: bool, target: Size) -> Value:
            x = nodes[node]
            if kernel := OPERATIONS[operation]:
                x = conv(self.graph, x, f"{name}depth", groups=channels, dilation=kernel.dilation)
                x = self.graph("Relu", self.conv_norm(x, f"{name}conv", f"{name}bn", epsilon=EPSILON))
            x = self.resize(x, sizes[node], target, channels)
            x = self.graph("Relu", batch_norm(self.graph, x, f"{name}norm", EPSILON)) if concatenates else x
            return self.graph("Mul", x, self.graph.weights[f"{name}factor"].reshape(1, channels, 1, 1))

        nodes = [adapt(stage) if stage in read else "" for stage in range(min(len(stages), STAGE_INPUTS))]
        for stage in range(STAGE_INPUTS, len(stages)):
            nodes[-1] = self.graph("Add", nodes[-1], self.resize(adapt(stage), self.sizes[stage], sizes[STAGE_INPUTS - 1], channels))
        for number in range(len(stages), STAGE_INPUTS):
            nodes.append(self.halve(nodes[-1], sizes[number - 1]))
        for number, cell in enumerate(cells):
            target = sizes[STAGE_INPUTS + number]
            both = [branch(*one, name, cell.concatenates, target) for one, name in nas_fcos.branch_names(number, cell)]
            nodes.append(self.graph("Add", *both))
        last, joined = nas_fcos.fusion_ends(cells)
        outputs = []
        for node, level in zip(last, LEVELS[:ENDS], strict=True):
            x = nodes[node]
            for other in joined:
                x = self.graph("Add", x, self.resize(nodes[other], sizes[other], sizes[node], channels))
            outputs.append(self.resize(x, sizes[node], level_size(level, size), channels))
        above = conv(self.graph, outputs[-1], f"{ABOVE}0", 2)
        return (*outputs, above, conv(self.graph, self.graph("Relu", above), f"{ABOVE}1", 2))

    def backbone(self, images: Value) -> tuple[Value, ...]:
        """Map images (B, 3, H, W) to the outputs (B, C_l, H_l, W_l) of all stages."""
        x, outputs, previous = self.stem(images), [], list[Value]()
        for level, runs in enumerate(architecture.copy_runs(self.arch)):
            size = self.sizes[max(level - 1, 0)]  # of the stage's input
            kept: list[Value] = []
            carry = None
            for number, source, stays in runs:
                z = x if source < 0 else previous[source]
                z = self.stage(level, z if carry is None else self.graph("Add", z, carry), number)
                if stays:
                    kept.insert(0, z)
                name = connection_name(level, 0 if self.settings.share_weights else number)
                carry = self.upsample(self.conv_norm(z, f"{name}conv", f"{name}bn"), self.sizes[level], size)
            x = self.stage(level, x if carry is None else self.graph("Add", x, carry))
            previous = kept
            outputs.append(x)
        return tuple(outputs)

    def stem(self, images: Value) -> Value:
        """Map images (B, 3, H, W) to features (B, C, H/4, W/4)."""
        if self.settings.stem == "7x7":
            x = self.graph("Relu", self.conv_norm(images, f"{STEM}conv", f"{STEM}bn", 2))
            return self.graph("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        x = self.graph("Relu", self.conv_norm(images, f"{STEM}conv1", f"{STEM}bn1", 2))
        return self.graph("Relu", self.conv_norm(x, f"{STEM}conv2", f"{STEM}bn2", 2))

    def stage(self, level: int, x: Value, copy: int | None = None) -> Value:
        """Run the blocks of one stage, or of copy number `copy` of it."""
        own = copy is not None and not self.settings.share_weights
        for position, block in enumerate(block for block in self.blocks if block.stage == level):
            x = self.block(x, block, copied_block_name(level, copy, position) if own else block_name(block.index))
        return x

    def block(self, x: Value, block: Block, name: str) -> Value:
        """Run one residual block; its 3x3 convolution with the stride also has the groups."""
        convolutions = 2 if self.arch.block_type.expansion == 1 else 3
        y = x
        for number in range(1, convolutions + 1):
            stride, groups = (block.stride, self.arch.block_type.groups) if number == convolutions - 1 else (1, 1)
            y = self.conv_norm(y, f"{name}conv{number}", f"{name}bn{number}", stride, groups)
            y = self.graph("Relu", y) if number < convolutions else y
        if block.projection:
            x = self.conv_norm(x, f"{name}shortcut.conv", f"{name}shortcut.bn", block.stride)
        return self.graph("Relu", self.graph("Add", x, y))

    def conv_norm(self, x: Value, convolution: str, norm: str, stride: int = 1, groups: int = 1, epsilon: float | None = None) -> Value:
        """Convolve and normalise by the running statistics; `epsilon`: the norm's, by default that of the backbone."""
        y = conv(self.graph, x, convolution, stride, groups)
        return batch_norm(self.graph, y, norm, self.settings.norm_epsilon if epsilon is None else epsilon)

    def halve(self, x: Value, size: Size) -> Value:
        """Take the maxima of 2x2 of (B, C, *size), of fewer at an odd border."""
        return self.graph("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, size[0] % 2, size[1] % 2])

    def resize(self, x: Value, size: Size, target: Size, channels: int) -> Value:
        """Resize (B, C, *size) bilinearly to (B, C, *target), pixel centres at half pixels."""
        if size == target:
            return x
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if target == (2 * size[0], 2 * size[1]):
            return self.graph("Resize", x, "", [1.0, 1.0, 2.0, 2.0], **how)
        if isinstance(self.batch, int):
            return self.graph("Resize", x, "", "", np.array([self.batch, channels, *target], np.int64), **how)
        shape = self.graph("Concat", self.graph("Shape", x, end=2), np.array(target, np.int64), axis=0)
        return self.graph("Resize", x, "", "", shape, **how)

    def upsample(self, x: Value, size: Size, target: Size) -> Value:
        """Double (B, C, *size) by nearest neighbour and crop it to (B, C, *target).

        Centres of cells never lie halfway, so that all modes of rounding to the nearest agree: Ascend's ATC has but one.
        """
        if size == target:
            return x
        how = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
        x = self.graph("Resize", x, "", [1.0, 1.0, 2.0, 2.0], **how)
        return x if target == (2 * size[0], 2 * size[1]) else self.graph("Slice", x, [0, 0], list(target), [2, 3])


def conv(graph: Graph, x: Value, name: str, stride: int = 1, groups: int = 1, dilation: int = 1) -> Value:
    """Convolve with the weights `name`, and their bias if there is one, padded by half the kernel size times the dilation."""
    tensors = [graph.weight(f"{name}.{kind}") for kind in ("weight", "bias") if f"{name}.{kind}" in graph.weights]
    padding = dilation * (graph.weights[f"{name}.weight"].shape[-1] // 2)
    more = {"dilations": [dilation] * 2} if dilation > 1 else {}
    return graph("Conv", x, *tensors, strides=[stride] * 2, pads=[padding] * 4, group=groups, **more)


def batch_norm(graph: Graph, x: Value, name: str, epsilon: float) -> Value:
    """Normalise by the running statistics of the norm `name`."""
    return graph("BatchNormalization", x, *(graph.weight(f"{name}{kind}") for kind in (*AFFINE, *STATISTICS)), epsilon=epsilon)


def dense(graph: Graph, x: Value, name: str) -> Value:
    """Fully connected layer `name` of (R, inputs)."""
    return graph("Gemm", x, graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias"), transB=1)

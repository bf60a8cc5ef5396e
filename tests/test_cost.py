import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_arch import archs

from spnas_core.arch import parse
from spnas_core.cost import Cost, backbone_cost, head_cost, stage_macs, stage_sizes
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import Detector

TABLE = [  # text, blocks, parameters, GMACs at 224x224; the ResNets and ResNeXt are torchvision's
    ("b_11-21-21-21", 8, 11_176_512, "1.81"),
    ("b_111-2111-211111-211", 16, 21_284_672, "3.66"),
    ("r_111-2111-211111-211", 16, 23_508_032, "4.09"),
    ("x(32x4d)_111-2111-211111-211", 16, 22_979_904, "4.23"),
    ("r_111-2111-21111111111111111111111-211", 33, 42_500_160, "7.80"),
    ("r_1111-21111-2111111111111111111111111-211-1", 38, 53_745_984, "8.85"),
    ("r_11121111-21111-112-1111-1111", 24, 61_128_256, "14.04"),
]
SIZES = st.tuples(st.integers(32, 300), st.integers(32, 300))
ECP = "r_11121111-21111-112-1111-1111_0-0-2-0-3"


@pytest.mark.parametrize(("text", "blocks", "params", "gmacs"), TABLE)
def test_table_of_known_nets(text, blocks, params, gmacs):
    arch = parse(text)
    cost = backbone_cost(arch, (224, 224))
    assert (len(arch.digits), cost.params, f"{cost.macs / 1e9:.2f}") == (blocks, params, gmacs)


def test_detector_equals_torchvisions():
    # fasterrcnn_resnet50_fpn has 41,755,286 parameters for 91 classes; its frozen norms (53,120 gammas and betas) are buffers there
    cost = candidate_cost(parse("111-2111-211111-211"), Detector(), 90)
    assert cost.params == 41_755_286 + 53_120


def test_the_authors_eurocitypersons_net():
    # shared copies, FPN, three box heads with a box per class; the 115.9 of the authors' table are what 80 classes, as of COCO, give
    arch = parse(ECP)
    for classes, millions in ((1, "114.7"), (80, "115.9")):
        one = candidate_cost(arch, Detector(image_size=(1024, 1920)), classes)
        assert f"{(one.params + 2 * head_cost(classes, 256, 1024, 1000).params) / 1e6:.1f}" == millions


@given(archs(max_blocks=20), SIZES, st.sampled_from([32, 64]))
def test_sharing_saves_parameters_and_no_macs(arch, size, width):
    serial = backbone_cost(arch.serial(), size, width)
    shared, own = (backbone_cost(arch, size, width, share_weights=share) for share in (True, False))
    assert shared.macs == own.macs >= serial.macs + sum(k * m for k, m in zip(arch.parallel, stage_macs(arch, size, width), strict=True))
    assert serial.params <= shared.params <= own.params
    if not any(arch.parallel):
        assert serial == shared == own
    else:
        assert shared.macs > serial.macs
        assert shared.params > serial.params


@given(archs(max_blocks=20), SIZES)
def test_odd_sizes_round_up(arch, size):
    def conv(h, kernel, stride, pad):
        return (h + 2 * pad - kernel) // stride + 1

    def plain(h):
        h = conv(conv(h, 7, 2, 3), 3, 2, 1)
        found = [h]
        for _ in arch.stages[1:]:
            found.append(conv(found[-1], 3, 2, 1))
        return found

    assert list(stage_sizes(arch, size)) == list(zip(plain(size[0]), plain(size[1]), strict=True))


def test_macs_by_hand():
    # one BasicBlock of width 64 at 56 x 56 is two 3x3 convolutions
    assert stage_macs(parse("b_11111111"), (224, 224))[0] == 16 * 9 * 64 * 64 * 56 * 56
    assert backbone_cost(parse("b_11-21-21-21"), (224, 224)) == Cost(11_176_512, 1_813_561_344)


def test_3x3_stem():
    seven, three = (backbone_cost(parse("b_11-21-21-21"), (224, 224), stem=stem) for stem in ("7x7", "3x3"))
    assert three.params - seven.params == (3 * 32 * 9 + 64 + 32 * 64 * 9 + 128) - (3 * 64 * 49 + 128)
    assert three.macs - seven.macs == 3 * 32 * 9 * 112**2 + 32 * 64 * 9 * 56**2 - 3 * 64 * 49 * 112**2


@given(archs(max_blocks=20), st.integers(1, 90), st.integers(1, 500))
def test_head_macs_grow_with_the_proposals_only(arch, classes, proposals):
    settings = Detector(image_size=(64, 96), base_width=32, fpn_channels=16, head_channels=32)
    costs = [candidate_cost(arch, settings.model_copy(update={"proposals_test": n}), classes) for n in (proposals, proposals + 1)]
    assert costs[0].params == costs[1].params
    assert costs[1].macs - costs[0].macs == 16 * 49 * 32 + 32 * 32 + 32 * 5 * (classes + 1)

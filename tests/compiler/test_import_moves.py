"""Operators that move pixels, enlarge planes, or weigh them by where they are, beside ONNX Runtime in float."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nets import Net, compare, kinds

from sateen.ir.nodes import Conv


def tail(net: Net, y: str, channels: int, *, rank: int = 4) -> Net:
    """A convolution behind it, so that the layout counts."""
    return net.output(net.conv(y, channels, 3, *(1,) * (rank - 2)))


MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("coordinates", [*MODES, "tf_half_pixel_for_nn", "half_pixel_symmetric"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("sizes", [(8, 10), (5, 12), (3, 7), (2, 2)])
def test_nearest(sizes, rounding, coordinates):
    net = Net(17 if coordinates == "tf_half_pixel_for_nn" else 19)
    x = net.conv(net.input(1, 3, 4, 5), 3, 4, 1, 1)
    y = net("Resize", x, "", "", net.constant([1, 4, *sizes], np.int64), mode="nearest",
            coordinate_transformation_mode=coordinates, nearest_mode=rounding)  # fmt: skip
    compare(tail(net, y, 4))


@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (3.0, 1.0), (1.5, 2.5), (0.5, 2.0), (4.0, 0.5)])
def test_linear_and_cubic(scales, mode, coordinates):
    net = Net(17)
    x = net.conv(net.input("N", 2, 6, 4), 2, 3, 1, 1)
    y = net("Resize", x, "", net.constant([1, 1, *scales], np.float32), mode=mode,
            coordinate_transformation_mode=coordinates)  # fmt: skip
    compare(tail(net, y, 3))


@pytest.mark.parametrize(
    ("coordinates", "mode", "sizes", "convolutions"),
    [
        ("half_pixel", "linear", (96, 160), 64),  # as many phases as 8 times 8
        ("align_corners", "linear", (24, 40), 0),  # positions that never repeat
        ("align_corners", "cubic", (24, 40), 0),
        (
            "align_corners",
            "linear",
            (35, 20),
            33,
        ),  # few enough to be rounded once; one more moves with the copies
    ],
)
def test_phases_are_of_what_repeats(coordinates, mode, sizes, convolutions):
    net = Net(17)
    x = net.conv(net.input(1, 2, 12, 20), 2, 3, 1, 1)
    y = net("Resize", x, "", "", net.constant([1, 3, *sizes], np.int64), mode=mode,
            coordinate_transformation_mode=coordinates)  # fmt: skip
    graph = compare(tail(net, y, 3))
    assert sum(isinstance(node, Conv) for node in graph.nodes) == convolutions + 2


@pytest.mark.parametrize("opset", [9, 10, 11, 13])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_the_forms_of_each_operator_set(mode, opset):
    net = Net(opset)
    x = net.conv(net.input("N", 2, 4, 4), 2, 3, 1, 1)
    scales = net.constant([1, 1, 2, 3], np.float32)
    if opset == 9:
        y = net("Upsample", x, scales, mode=mode)
    elif opset == 10:
        y = net("Resize", x, scales, mode=mode)
    else:
        y = net("Resize", x, net.constant([], np.float32), scales, mode=mode,
                coordinate_transformation_mode="asymmetric")  # fmt: skip
    compare(tail(net, y, 3))


def test_resize_of_a_sequence_and_of_other_axes():
    net = Net(18)
    x = net.conv(net.input("N", 3, 9), 3, 4, 3)
    y = net("Resize", x, "", net.constant([2], np.float32), mode="linear", axes=[2])
    compare(tail(net, y, 4, rank=3))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_with_channels_last(mode):
    net = Net(17)
    x = net("Transpose", net.conv(net.input(1, 3, 4, 5), 3, 4, 1, 1), perm=[0, 2, 3, 1])
    how = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    y = net("Resize", x, "", net.constant([1, 2, 3, 1], np.float32), **how)
    compare(net.output(net("MatMul", y, net.random(4, 3))))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"strides": [2, 3], "pads": [1, 0, 2, 1]},
        {"strides": [1, 1], "pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]},
        {"strides": [4, 2]},
        {"strides": [2, 2], "dilations": [2, 1]},
        {"strides": [3, 2], "dilations": [2, 3], "pads": [2, 1, 0, 3]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "output_shape": [9, 11]},
    ],
)
def test_transposed_convolution(attributes, groups):
    net = Net(13)
    x = net.conv(net.input("N", 3, 4, 5), 3, 4, 1, 1)
    weight, bias = net.random(4, 6 // groups, 3, 3), net.random(6)
    y = net("ConvTranspose", x, weight, bias, group=groups, **attributes)
    compare(tail(net, y, 6))


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_transposed_convolution_of_a_sequence(stride):
    net = Net(13)
    y = net("ConvTranspose", net.input("N", 3, 6), net.random(3, 4, 3), strides=[stride])
    compare(tail(net, y, 4, rank=3))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("last", [False, True])
def test_depth_to_space(mode, last):
    net = Net(13)
    y = net("DepthToSpace", net.conv(net.input("N", 3, 4, 5), 3, 12, 1, 1), blocksize=2, mode=mode)
    compare(net.output(y) if last else tail(net, y, 3))


@pytest.mark.parametrize("last", [False, True])
def test_space_to_depth(last):
    net = Net(13)
    y = net("SpaceToDepth", net.conv(net.input("N", 2, 4, 6), 2, 3, 1, 1), blocksize=2)
    compare(net.output(y) if last else tail(net, y, 12))


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap", "constant"])
@pytest.mark.parametrize(
    "pads", [(0, 0, 1, 2, 0, 0, 2, 0), (0, 0, 0, 3, 0, 0, 0, 1), (0, 1, 0, 0, 0, 2, 1, 0)]
)
def test_padding(pads, mode):
    net = Net(19)
    x = net.conv(net.input("N", 2, 5, 6), 2, 4, 1, 1)
    value = [net.constant(1.5, np.float32)] if mode == "constant" else []
    y = net("Pad", x, net.constant(pads, np.int64), *value, mode=mode)
    compare(tail(net, y, 4 + pads[1] + pads[5]))


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [((3, 3), (1, 1), (1, 1, 1, 1)), ((3, 2), (2, 2), (1, 0, 0, 1)), ((5, 4), (3, 2), (2, 1, 2, 2))],
)
def test_average_pool_that_counts_what_is_there(kernel, strides, pads, ceil, counted):
    net = Net(19)
    x = net.conv(net.input("N", 2, 8, 9), 2, 3, 1, 1)
    y = net(
        "AveragePool",
        x,
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        ceil_mode=ceil,
        count_include_pad=counted,
    )
    compare(tail(net, y, 3))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_concat_along_any_axis(axis):
    net = Net(13)
    x = net.input("N", 3, 4, 5)
    parts = [net.conv(x, 3, 3, 1, 1) for _ in range(3)]
    y = net("Concat", *parts, axis=axis)
    compare(tail(net, y, 9 if axis == 1 else 3))


def test_heads_of_a_detector():
    """Rows of boxes of two planes one behind the other, as exporters write detectors."""
    net = Net(13)
    x = net.input(1, 3, 8, 8)
    heads = []
    for stride in (1, 2):
        y = net("Conv", x, net.random(6, 3, 3, 3), strides=[stride] * 2, pads=[1] * 4)
        y = net("Transpose", y, perm=[0, 2, 3, 1])
        heads.append(net("Reshape", y, net.constant([1, -1, 3], np.int64)))
    y = net("Concat", *heads, axis=1)
    compare(net.output(y, net("MatMul", y, net.random(3, 4))))


def test_halves_of_shuffled_channels():
    """ShuffleNetV2's shuffle as FastestDet has it: the halves are taken from a tensor of five dimensions."""
    net = Net(13)
    x = net.conv(net.input(1, 4, 6, 5), 4, 8, 1, 1)
    y = net("Reshape", x, net.constant([4, 2, 30], np.int64))
    y = net("Reshape", net("Transpose", y, perm=[1, 0, 2]), net.constant([2, 1, 4, 6, 5], np.int64))
    a, b = (net("Gather", y, net.constant(k, np.int64), axis=0) for k in range(2))
    compare(net.output(net.conv(a, 4, 3, 3, 3), net.conv(b, 4, 2, 1, 1)))


def test_rows_in_any_order():
    net = Net(13)
    x = net.conv(net.input("N", 2, 6, 5), 2, 3, 1, 1)
    y = net("Gather", x, net.constant([5, 0, 0, 3, 2], np.int64), axis=2)
    y = net("Slice", y, *(net.constant(v, np.int64) for v in ([4], [-9], [3], [-1])))
    compare(tail(net, y, 3))


def test_sum_of_two_layouts():
    net = Net(13)
    x = net.input(1, 4, 6)
    a = net.conv(x, 4, 6, 1)
    b = net("Transpose", net.conv(x, 4, 6, 1), perm=[0, 2, 1])
    y = net("Add", net("Transpose", a, perm=[0, 2, 1]), b)
    z = net("Add", y, net("Reshape", net.conv(x, 4, 6, 1), net.constant([1, 6, 6], np.int64)))
    compare(net.output(z))


def test_windows_of_a_plane():
    """Swin's window partition and its reverse."""
    net = Net(13)
    x = net.conv(net.input(1, 3, 8, 8), 3, 4, 1, 1)
    y = net("Reshape", net("Transpose", x, perm=[0, 2, 3, 1]), net.constant([1, 2, 4, 2, 4, 4], np.int64))
    y = net("Reshape", net("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), net.constant([4, 16, 4], np.int64))
    y = net("MatMul", y, net.random(4, 5))
    y = net("Reshape", y, net.constant([1, 2, 2, 4, 4, 5], np.int64))
    y = net("Reshape", net("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), net.constant([1, 8, 8, 5], np.int64))
    compare(net.output(net.conv(net("Transpose", y, perm=[0, 3, 1, 2]), 5, 2, 3, 3)))


def test_factors_along_another_axis():
    """Normalization and bias of a dimension that is not the one which lies in the channels."""
    net = Net(13)
    x = net.conv(net.input(1, 4, 6), 4, 5, 1)
    y = net("Transpose", x, perm=[0, 2, 1])  # (1, 6, 5), of which the 5 are channels
    statistics = [net.random(6, low=0.5) for _ in range(4)]
    y = net("BatchNormalization", y, *statistics)
    z = net("Add", net("Relu", y), net.random(1, 6, 1))
    compare(net.output(net("MatMul", z, net.random(5, 3))))


def test_numbers_that_differ_from_pixel_to_pixel():
    """Position embeddings."""
    net = Net(13)
    x = net("Transpose", net.conv(net.input(1, 4, 6), 4, 5, 1), perm=[0, 2, 1])
    y = net("Add", x, net.random(1, 6, 5))
    compare(net.output(net("MatMul", y, net.random(5, 3))))


@pytest.mark.parametrize(("planes", "shape"), [(3, (10, 12, 3)), (1, (1, 10, 12))])
def test_an_output_s_planes_stay_channels_if_they_are_several(planes, shape):
    """One would leave most of a word empty: its rows are channels instead."""
    net = Net()
    y = net.conv(net.input(1, 3, 5, 6), 3, 4 * planes, 3, 3, pads=[1] * 4)
    graph = compare(net.output(net("DepthToSpace", y, blocksize=2, mode="CRD")))
    assert graph.shapes[graph.outputs[0].tensor] == shape


@pytest.mark.parametrize(
    ("mode", "factor"), [("half_pixel", 2), ("pytorch_half_pixel", 3), ("asymmetric", 2)]
)
def test_a_whole_factor_makes_its_square_of_phases(mode, factor):
    """However large the plane: borders are repeated, not phases of their own."""
    net = Net()
    scales = net.constant([1, 1, factor, factor], np.float32)
    y = net.conv(net.input(1, 3, 20, 24), 3, 4, 1, 1)
    y = net("Resize", y, "", scales, mode="linear", coordinate_transformation_mode=mode)
    graph = compare(net.output(y))
    assert kinds(graph).count("Conv") <= 1 + factor**2


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("at", [[[0, 2], [1, 1], [3, 0]], [[[3]], [[1]]]])
def test_indices_of_more_dimensions(axis, at):
    """They take the place of one, as of relative positions."""
    net = Net()
    x = net("Relu", net.conv(net.input(1, 3, 5, 4), 3, 6, 1, 1))
    compare(net.output(net("Gather", x, net.constant(at, np.int64), axis=axis)))


@pytest.mark.parametrize(
    "box", [(0, 6, 1, 5, 0, 4), (2, 4, 0, 5, 0, 4), (1, 5, 1, 3, 2, 4), (0, 6, 4, 5, 3, 4)]
)
@pytest.mark.parametrize("what", ["computed", "constant"])
def test_a_slice_is_written(box, what):
    """As of an assignment to a slice: elements, then rows of the last dimension."""
    net = Net()
    x = net("Relu", net.conv(net.input(1, 3, 5, 4), 3, 6, 1, 1))
    ranges = [range(1), *(range(a, b) for a, b in zip(box[::2], box[1::2], strict=True))]
    sizes = [len(r) for r in ranges]
    starts, ends = (net.constant([r[k] + k * -1 for r in ranges], np.int64) for k in (0, -1))
    part = net("Neg", net("Slice", x, starts, ends)) if what == "computed" else net.random(*sizes)
    at = np.stack(np.meshgrid(*ranges, indexing="ij"), -1)
    y = net("ScatterND", x, net.constant(at, np.int64), part)
    if what == "computed":  # into zeros
        zeros = net(
            "ScatterND", net.constant(np.zeros((1, 6, 5, 4)), np.float32), net.constant(at, np.int64), part
        )
        y = net("Add", y, zeros)
    compare(net.output(net.conv(y, 6, 2, 1, 1)))

"""Selections of channels, rows and columns are lists of indices: what they cost, and that every engine takes them."""

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx_nets import Net, compare, kinds

import sateen
from sateen.compiler.importer import check_model, import_model
from sateen.compiler.prune.one_shot import sparsify
from sateen.compiler.schedule.tiles import gathered_tile
from sateen.errors import ConfigError, ModelError
from sateen.formats import parse_format, parse_sparsity
from sateen.ir.nodes import Conv
from sateen.ir.quant import Quant
from sateen.ir.quantized import Constant, Linear
from sateen.machine.presets import preset


def ints(net, *values):
    return net.constant(values, np.int64)


def cut(net, x, axis, start, end, step=1):
    return net("Slice", x, *(ints(net, v) for v in (start, end, axis, step)))


@pytest.mark.parametrize("indices", [[3, 0, 2], [4, 4, 1, 1, 0], [-1, 0], [2], [4, 3, 2, 1, 0]])
@pytest.mark.parametrize("reader", ["none", "dense", "depthwise", "grouped", "scale"])
def test_gather_of_channels(indices, reader):
    net = Net()
    x = net("Relu", net.conv(net.input("N", 3, 4, 5), 3, 5, 1, 1))
    y = net("Gather", x, ints(net, *indices), axis=1)
    n = len(indices)
    match reader:
        case "dense":
            y = net.conv(y, n, 3, 3, 3, pads=[1, 1, 1, 1])
        case "depthwise":
            y = net.conv(y, n, n, 3, 3, group=n)
        case "grouped":
            y = net.conv(net("Concat", y, y, axis=1), 2 * n, 4, 1, 1, group=2)
        case "scale":
            y = net("Mul", y, net.random(n, 1, 1))
    graph = compare(net.output(y))
    separate = reader in ("depthwise", "grouped") and n > 1
    assert kinds(graph).count("Conv") == (3 if separate or reader == "grouped" else 2)
    assert all(n.weight.size <= 5 * 5 * 9 for n in graph.nodes if isinstance(n, Conv))


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("limits", [(1, 5, 1), (0, 5, 1), (2, 99, 1), (1, 6, 2), (0, 6, 3), (3, 6, 3)])
def test_a_part_of_a_part(axis, limits):
    net = Net()
    x = net.conv(net.input("N", 3, 9, 8), 3, 7, 1, 1)
    y = net("Relu", cut(net, cut(net, x, axis, *limits), 3 if axis == 2 else 2, 1, 6))
    z = net("Pad", y, ints(net, 0, 1, 1, 0, 0, 2, 0, 3))
    graph = compare(net.output(y, z))
    assert all(n.weight.shape[1:3] == (1, 1) for n in graph.nodes if isinstance(n, Conv))


def test_padding_and_cropping_in_either_order():
    net = Net()
    x = net("Relu", net.conv(net.input("N", 2, 6, 6), 2, 3, 1, 1))
    a = cut(net, net("Pad", x, ints(net, 0, 0, 2, 1, 0, 0, 0, 1)), 2, 1, 7)
    b = net("Pad", cut(net, x, 3, 2, 5), ints(net, 0, 0, 0, 1, 0, 0, 0, 1))
    compare(
        net.output(net.conv(a, 3, 2, 3, 3), net.conv(b, 3, 2, 3, 3), net("MaxPool", b, kernel_shape=[2, 2]))
    )


def test_a_reader_does_not_grow_out_of_hand():
    """A hundred of many channels into a convolution that would get a weight for each of them."""
    net = Net()
    size = 1 << 18
    y = net("Gemm", cut(net, net.input(1, size), 1, 0, 100), net.random(100, 100))
    first, second = import_model(net.output(y).model()).nodes
    assert first.channels is not None and second.weight.size == 100 * 100


@pytest.mark.parametrize("shape, axis", [((1, 144160), 1), ((1, 1, 16000), 2), ((1, 2, 16000), 2)])
def test_memory_of_a_long_axis(shape, axis):
    net = Net()
    size = shape[axis]
    x = net.input(*shape)
    parts = [cut(net, x, axis, 160, size), cut(net, x, axis, 0, size - 160)]
    y = net("Relu", net("Sub", *parts))
    pads = np.zeros((2, len(shape)), np.int64)
    pads[:, axis] = 160, 0
    model = net.output(net("Pad", y, ints(net, *pads.ravel()))).model()
    tracemalloc.start()
    try:
        assert all(f.supported for f in check_model(model))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_what_the_machine_has_no_room_for(tmp_path):
    net = Net()
    onnx.save(net.output(net("Relu", cut(net, net.input(1, 4000), 1, 16, 4000))).model(), tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=r"'Slice0'.*words of the activation buffer, which has \d+; raise"):
        sateen.compile(
            tmp_path / "m.onnx",
            tmp_path / "b",
            calibration={"x": np.eye(1, 4000, dtype=np.float32)},
            config=preset("tiny").replace(act_bank_depth=64),
        )


def linear(channels: np.ndarray, weight: np.ndarray) -> Linear:
    ones = np.ones(len(weight), np.int64)
    quant = Quant(parse_format("int8"), 1.0)
    return Linear(
        "s", "x", "y", Constant(weight, quant.format), 0 * ones, ones, 0 * ones, quant, -128, 127, groups=len(weight),
        channels=channels,
    )  # fmt: skip


@pytest.mark.parametrize("pixels", [1, 100])
def test_tiles_hold_the_words_that_are_read(pixels):
    """Any order of many channels takes as much room as their number, and every weight has its place."""
    config = preset("tiny").replace(weight_format="int8", activation_format="int8")
    rng = np.random.default_rng(0)
    count = 4096
    channels = np.stack([rng.permutation(count), rng.permutation(count) + count], axis=1)
    weight = rng.integers(0, 3, (count, 1, 1, 2)).astype(np.uint8)
    weight[:3] = 0
    op = linear(channels, weight)
    total = 0
    for tile in range(count // config.cols):
        found = np.zeros((2 * count, config.cols), np.uint8)
        for dense, word0 in gathered_tile(op, tile, pixels, config):
            found[word0 * config.elements : word0 * config.elements + dense.shape[2]] += dense[0, 0]
            total += dense.size
        expected = np.zeros_like(found)
        for column in range(config.cols):
            row = tile * config.cols + column
            expected[channels[row], column] = weight[row, 0, 0]
        assert (found == expected).all()
    assert total < count * 2 * config.elements * config.cols * 4


@pytest.mark.parametrize("outer", [0, 1])
def test_a_selection_of_one_channel_reads_one_channel(outer):
    """It has one group, as a convolution that reads every channel has."""
    net = Net()
    x = net("Pad", net.input("N", 1, 5, 4), ints(net, 0, 0, 0, 0, 0, 1, 0, 0))
    compare(net.output(cut(net, x, 1, outer, outer + 1), cut(net, x, 1, 1 - outer, 2 - outer)))


def test_a_selection_of_one_channel_is_no_first_layer():
    net = Net()
    x = net("MaxPool", cut(net, net.input(1, 8, 9, 9), 1, 2, 3), kernel_shape=[2, 2])
    for inputs, outputs in ((1, 8), (8, 8), (8, 8)):
        x = net.conv(x, inputs, outputs, 3, 3)
    _, report = sparsify(import_model(net.output(x).model()), parse_sparsity("2:4"))
    assert [e.pattern.name for e in report] == ["dense", "dense", "2:4", "dense"]
    with pytest.raises(ModelError, match=r"a selection of channels; only a Conv with groups = 1"):
        sparsify(import_model(net.model()), parse_sparsity("dense"), layers={"Slice0": parse_sparsity("2:4")})

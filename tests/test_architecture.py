"""The weight that docs/architecture.md follows from the file to a multiplier, and its result's way back."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sateen
from sateen.machine.isa import Opcode, Target
from sateen.models.data import CALIBRATION, digits_split

ROOT = Path(__file__).resolve().parents[1]
CNN = ROOT / "models/digits_cnn.onnx"
LAYER, O, KY, KX, C = 1, 5, 1, 2, 7
"""Of the quantized graph: output channel, kernel row and column, input channel."""


@pytest.fixture(scope="module")
def page():
    return " ".join((ROOT / "docs/architecture.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def mapped():
    samples = {"input": digits_split().x_train[:CALIBRATION]}
    return sateen.load(CNN).quantize(weights="int8", activations="int8", calibration=samples).map("tiny")


def test_from_the_file_to_the_quantized_graph(mapped, page):
    in_file = {i.name: numpy_helper.to_array(i) for i in onnx.load(CNN).graph.initializer}[
        "features.2.0.weight"
    ]
    assert in_file.shape == (16, 16, 3, 3) and f"`features.2.0.weight` {in_file.shape}" in page
    op = mapped.quantized.graph.ops[LAYER]
    conv = next(n for n in sateen.load(CNN).graph.nodes if n.name == op.name)
    folded = conv.weight[O, KY, KX, C]
    assert f"{folded:.5f} in the `Conv`'s weight {conv.weight.shape}" in page
    assert folded / in_file[O, C, KY, KX] == pytest.approx(
        (conv.weight[O] / in_file[O].transpose(1, 2, 0)).mean()
    )
    code, scale = int(op.weight.codes[O, KY, KX, C]), op.weight.scale[O]
    assert code == round(folded / scale) and f"code {code} at a scale of {scale:.7f}" in page


def test_from_the_quantized_graph_to_the_multiplier(mapped, page):
    config, program, op = mapped.config, mapped.program, mapped.quantized.graph.ops[LAYER]
    assert (config.rows, config.cols, config.lanes, config.group) == (2, 2, 2, 2)
    tile, column = divmod(O, config.cols)
    word, element = divmod(C, config.elements)
    row, lane = divmod(element, config.group)
    assert f"tile {tile} has output channels 4 and 5: column {column}" in page
    assert f"channel {C} is in word {word}, element {element}: row {row}, lane {lane}" in page
    assert f"`pe_{row}_{column}`, lane {lane}" in page
    loads = [
        i.fields
        for i in program.instructions
        if i.layer == LAYER and i.opcode == Opcode.LOAD and i.target == Target.WEIGHT
    ]
    _, rows, columns, channels = op.weight.shape
    index = ((KY * channels // config.elements + word) * columns + KX) * config.rows + row
    byte = loads[tile]["source"] + index * config.weight_word_bytes + column * config.lanes + lane
    assert program.constants[byte] == op.weight.codes[O, KY, KX, C]
    tile_words = np.frombuffer(program.constants, np.uint8)[loads[tile]["source"] :][
        : loads[tile]["words"] * 4
    ]
    assert tile_words.sum() == op.weight.codes[tile * 2 : tile * 2 + 2].sum(dtype=int) and rows == 3
    assert f"byte {byte}: tile {tile} begins at {loads[tile]['source']}" in page
    assert f"this is word {index}, byte {column * config.lanes + lane}" in page
    destination = loads[tile]["destination"]
    assert (
        f"word {destination + index}: a LOAD of {loads[tile]['words']} words puts tile {tile} at word {destination}"
        in page
    )


def test_the_way_back(mapped, page):
    config, program, op = mapped.config, mapped.program, mapped.quantized.graph.ops[LAYER]
    assert f"{config.acc_bits} bits, exact" in page
    shift = str(op.shift[O]).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert f"the bias {op.bias[O]}" in page and f"times {op.multiplier[O]} · 2⁻{shift}" in page
    assert f"clamped to {op.low} … {op.high}" in page
    assert op.requantized.zero_point == op.low == -128 and op.high == 127  # the Relu
    word, element = divmod(O, config.elements)
    assert f"element {element} of word {word} of its pixel: channel {O}" in page
    raw = [i for i in program.instructions if i.opcode == Opcode.DRAIN and i.fields.get("raw")]
    assert len({i.fields["raw_shift"] for i in raw}) == 3 and "three digits of 8 bits each" in page

"""Estimates of whole chips against the presets that were placed, and every board has a capacity."""

from pathlib import Path

import pytest

import sateen
from sateen.explorer.target import Target
from sateen.fpga.boards.capacity import CAPACITIES, capacity_of
from sateen.fpga.boards.catalog import BOARDS
from sateen.fpga.estimate import resource_model
from sateen.fpga.flow.bitstream import measured
from sateen.models.data import write_digits_npz

MODEL = Path(__file__).resolve().parents[2] / "models/digits_cnn.onnx"

CELLS = {
    "ecp5": ("TRELLIS_COMB", "DP16KD", "MULT18X18D"),
    "ice40": ("ICESTORM_LC", "ICESTORM_RAM", "ICESTORM_DSP"),
}


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_a_capacity(name):
    assert all(n > 0 for n in capacity_of(BOARDS[name]).available.values())
    assert (BOARDS[name].part.architecture, BOARDS[name].part.device) in CAPACITIES


@pytest.mark.parametrize("name", ["ulx3s-85f", "orangecrab-25f", "icebreaker"])
def test_the_chip_is_near_the_one_that_was_placed(name, digits_cnn):
    board = BOARDS[name]
    placed = measured()[name]["boards"][name]["networks"]["digits_cnn"]["used"]
    mapped = digits_cnn.map(name)
    memory = mapped.memory["data_offset"] + mapped.memory["data_size"]
    chip = Target(name, "ecp5", board).estimate(mapped.config, memory)
    lut, bram, dsp = (placed[cell] for cell in CELLS[board.part.architecture])
    assert chip["lut"] == pytest.approx(lut, rel=0.05)
    assert (chip["bram"], chip["dsp"]) == (bram, dsp)


PACKED = {
    "int8": ({"lanes": 2, "group": 2, "queue_depth": 2}, 6073, 4),
    "queues": ({"queue_depth": 4, "bus_bits": 64}, 7781, 3),
    "int3": ({"rows": 2, "cols": 2, "weight_format": "int3", "activation_format": "int4"}, 5241, 1),
}
"""What differs from preset `icebreaker`, cells that nextpnr made of the digits CNN's chip, and its DSPs."""


@pytest.mark.parametrize("name", PACKED)
def test_other_machines_on_an_ice40_are_near_what_was_packed(name, samples):
    """Queues are flip-flops there, each a cell, and products of few bits take no DSP."""
    changes, cells, dsps = PACKED[name]
    config = sateen.preset("icebreaker").replace(**changes)
    network = sateen.load(MODEL).quantize(
        calibration=samples, weights=config.weight_format, activations=config.activation_format
    )
    mapped = network.map(config)
    memory = mapped.memory["data_offset"] + mapped.memory["data_size"]
    chip = Target("icebreaker", "ecp5", BOARDS["icebreaker"]).estimate(mapped.config, memory)
    assert chip["lut"] == pytest.approx(cells, rel=0.06)
    assert chip["dsp"] == dsps


def test_memory_beside_block_ram_has_an_end():
    capacity = capacity_of(BOARDS["icebreaker"])
    machine = {"lut": 1, "ff": 1, "dsp": 1, "bram": 1}
    assert capacity.chip(machine, 1 << 17, 32)["bram"] <= capacity.available["bram"]
    assert capacity.chip(machine, (1 << 17) + 1, 32)["bram"] > capacity.available["bram"]


def test_small_memories_of_an_ice40_are_block_ram():
    """On ECP5 they are LUTs, the more the shallower the buffers: LUTs that an iCE40 does not have to hold them in."""
    deep = sateen.preset("icebreaker").replace(acc_depth=512, parameter_depth=512, acc_bits=20)
    shallow = deep.replace(acc_depth=64, parameter_depth=64)
    grown = {
        f: resource_model.counts(shallow, f)["lut"] - resource_model.counts(deep, f)["lut"]
        for f in ("ecp5", "ice40")
    }
    assert grown["ecp5"] > 300 and abs(grown["ice40"]) < 30


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_digits_npz(tmp_path_factory.mktemp("digits"))[0]


@pytest.fixture(scope="module")
def digits_cnn(samples):
    return sateen.load(MODEL).quantize(calibration=samples)

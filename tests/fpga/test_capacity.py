"""Estimates of whole chips against the presets that were placed, and every board has a capacity."""

import pytest

import sateen
from sateen.fpga.boards.capacity import CAPACITIES, capacity_of
from sateen.fpga.boards.catalog import BOARDS
from sateen.fpga.flow.bitstream import measured

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
    machine = mapped.estimate("ecp5")["devices"]["ecp5"]["total"]
    memory = mapped.memory["data_offset"] + mapped.memory["data_size"]
    chip = capacity_of(board).chip(mapped.config, machine, memory)
    lut, bram, dsp = (placed[cell] for cell in CELLS[board.part.architecture])
    assert chip["lut"] == pytest.approx(lut, rel=0.05)
    assert (chip["bram"], chip["dsp"]) == (bram, dsp)


def test_memory_beside_block_ram_has_an_end():
    capacity = capacity_of(BOARDS["icebreaker"])
    config, machine = sateen.preset("icebreaker"), {"lut": 1, "ff": 1, "dsp": 1, "bram": 1}
    assert capacity.chip(config, machine, 1 << 17)["bram"] <= capacity.available["bram"]
    assert capacity.chip(config, machine, (1 << 17) + 1)["bram"] > capacity.available["bram"]


@pytest.fixture(scope="module")
def digits_cnn(tmp_path_factory):
    from pathlib import Path

    from sateen.models.data import write_digits_npz

    samples = write_digits_npz(tmp_path_factory.mktemp("digits"))[0]
    model = Path(__file__).resolve().parents[2] / "models/digits_cnn.onnx"
    return sateen.load(model).quantize(calibration=samples)

"""The digits network on the synthesized machine, cell by cell: the bits and the cycles of the RTL."""

from importlib.resources import as_file, files

import pytest

import sateen
from sateen.errors import ConfigError
from sateen.fpga.flow.gate_level import gate_level
from sateen.models.data import digits_split
from sateen.sim.engines import Build, run_build


@pytest.mark.rtl
@pytest.mark.parametrize("architecture,name", [("ecp5", "e3m2"), ("ice40", "int8")])
def test_netlist(architecture, name, tmp_path):
    data = digits_split()
    x = {"input": data.x_test[:1]}
    with as_file(files("sateen.models") / "digits_cnn.onnx") as model:
        sateen.compile(
            model,
            tmp_path,
            calibration={"input": data.x_train[:64]},
            preset="tiny",
            weights=name,
            activations=name,
        )
    reference = sateen.run(tmp_path, x, "reference").outputs["logits"]
    predicted = sateen.run(tmp_path, x, "model").cycles
    netlist = gate_level((tmp_path / "accelerator.v").read_text(encoding="utf-8"), architecture)
    found = run_build(Build(tmp_path), x, "rtl", verilog=netlist)
    assert found.outputs["logits"].tobytes() == reference.tobytes()
    assert found.cycles == predicted


def test_unknown_cells():
    with pytest.raises(ConfigError, match="unknown architecture 'xc7'; there are cells of ecp5, ice40"):
        gate_level("module top(); endmodule", "xc7")

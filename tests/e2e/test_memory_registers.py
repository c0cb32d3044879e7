"""Networks on a machine with a register behind each memory, in all four engines: same bits, and the model's cycles."""

from __future__ import annotations

import numpy as np
import pytest
from four_engines import check, machine
from test_moving_networks import unet
from test_row_networks import softmax_net

from sateen.machine.config import DATAFLOWS
from sateen.models.random_computed import random_computed_network

MACHINE = machine(
    "int8", "int8", rows=2, cols=2, lanes=1, group=2, vector_lanes=2, dataflows=DATAFLOWS, depthwise=True, softmax=True,
    normalize=True, product=True, computed_weights=True, memory_registers=True,
)  # fmt: skip
NETWORKS = {
    "unet": (unet, "weight_stationary"),
    "unet, output-stationary": (unet, "output_stationary"),
    "softmax": (softmax_net, "auto"),
    "computed": (lambda: random_computed_network(3), "auto"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name, tmp_path):
    make, dataflow = NETWORKS[name]
    model = make()
    rng = np.random.default_rng(1)
    inputs = {
        i.name: rng.standard_normal((3, *(d.dim_value for d in i.type.tensor_type.shape.dim[1:]))).astype(
            np.float32
        )
        for i in model.graph.input
    }
    found = check(model, inputs, MACHINE, tmp_path, dataflow=dataflow, batch=1)
    plain = MACHINE.replace(memory_registers=False)
    without = check(model, inputs, plain, tmp_path, dataflow=dataflow, batch=1, rtl=False)
    assert without["model"].cycles < found["model"].cycles < 1.25 * without["model"].cycles
    for key, value in without["program"].outputs.items():
        assert value.tobytes() == found["rtl"].outputs[key].tobytes()

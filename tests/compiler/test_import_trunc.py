"""QONNX's Trunc of an average pool's sum, in every rounding mode, beside the `qonnx` package."""

from __future__ import annotations

import numpy as np
import pytest
from test_import_quantized import QONNX, Brevitas, in_qonnx, same

from sateen.compiler.importer import import_model
from sateen.errors import ModelError


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("mode", ["FLOOR", "CEIL", "ROUND"])
def test_trunc_of_every_sum(mode, signed, version, monkeypatch):
    """Drops 2 bits of sums of 4 codes, of which all remainders occur."""
    net = Brevitas(seed=signed)
    x = net.quant(net.input(1, 8, 8, 8), 2**-3, 4, signed=signed)
    y = net("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    numbers = (2**-5, 0, 6, 4) if version == 1 else (2**-5, 0, 6, 2**-3, 4)
    constants = [net.constant(v, np.float32) for v in numbers]
    flags = {"signed": signed, "narrow": 0} if version == 2 else {}
    y = net("Trunc", y, *constants, domain=QONNX[0], rounding_mode=mode, **flags)
    model = net.output(net("Conv", y, net.quant(net.random(2, 8, 1, 1), 0.25, 3))).model()
    next(o for o in model.opset_import if o.domain == QONNX[0]).version = version
    feeds = {"x": np.random.default_rng(2).normal(0.5, 1, (1, 8, 8, 8)).astype(np.float32)}
    same(model, in_qonnx(model, feeds, monkeypatch), feeds, tolerance=0)


def trunc_of_other_steps(net):
    x = net("GlobalAveragePool", net.quant(net.input(1, 3, 4, 4), 0.5, 4))
    return net("Trunc", x, *(net.constant(v, np.float32) for v in (0.5, 0, 8, 4)), domain=QONNX[1])


def trunc_of_five(net):
    x = net("GlobalAveragePool", net.quant(net.input(1, 3, 4, 4), 0.5, 4))
    constants = (net.constant(v, np.float32) for v in (0.5 / 16, 0, 8, 5 * 0.5 / 16, 6))
    return net("Trunc", x, *constants, domain=QONNX[1])


def trunc_half_up(net):
    x = net("GlobalAveragePool", net.quant(net.input(1, 3, 4, 4), 0.5, 4))
    constants = (net.constant(v, np.float32) for v in (0.5 / 16, 0, 8, 0.5, 4))
    return net("Trunc", x, *constants, domain=QONNX[1], rounding_mode="HALF_UP")


ERRORS = {
    trunc_of_other_steps: r"its scale is 0.5, but one step of the average pool's sum is 0.03125",
    trunc_of_five: r"it divides by 5; use output scales and bit widths that divide by 1, 2, 4",
    trunc_half_up: r"rounding_mode HALF_UP; use ROUND, HALF_EVEN, FLOOR, CEIL",
}


@pytest.mark.parametrize("case", ERRORS, ids=lambda c: c.__name__)
def test_what_no_sum_gives_is_an_error(case):
    net = Brevitas()
    with pytest.raises(ModelError, match=ERRORS[case]):
        import_model(net.output(case(net)).model())

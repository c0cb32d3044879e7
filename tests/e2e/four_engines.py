"""Compile a network and compare all four engines: outputs bit for bit, cycles exactly."""

from pathlib import Path

import numpy as np
import onnx

import sateen
from sateen.formats import parse_format
from sateen.machine.config import DATAFLOWS, AcceleratorConfig
from sateen.machine.presets import preset
from sateen.sim.engines import RunResult


def machine(weights: str, activations: str, base: str = "tiny", **changes: object) -> AcceleratorConfig:
    """One machine for many networks: not specialized, so that its simulator is built once."""
    wide = max(parse_format(f).fixed_bits for f in (weights, activations)) > 18
    return preset(base).replace(
        name=f"{base}-{weights}-{activations}",
        weight_format=weights,
        activation_format=activations,
        acc_bits=64 if wide else 40,
        multiplier="shift" if wide else "fixed",
        table=True,
        specialize=False,
        **changes,
    )


EIGHT = ("dense", "1:2", "2:4", "4:8", "1:4", "2:8", "1:8")
"""The patterns of a machine with groups of 8."""
SPARSE = machine("int8", "int8", rows=2, cols=4, lanes=2, group=8, patterns=EIGHT, dataflows=DATAFLOWS)


def check(
    model: onnx.ModelProto,
    samples: np.ndarray | dict[str, np.ndarray],
    config: AcceleratorConfig,
    folder: Path,
    *,
    batch: int = 2,
    rtl: bool = True,
    latency: int = 32,
    interval: int = 1,
    sparsity: str = "dense",
    dataflow: str = "auto",
) -> dict[str, RunResult]:
    """Results by engine; AssertionError where two engines differ."""
    path, build = folder / "model.onnx", folder / "build"
    onnx.save(model, path)
    if not isinstance(samples, dict):
        samples = {model.graph.input[0].name: samples}
    sateen.compile(path, build, calibration=samples, config=config, sparsity=sparsity, dataflow=dataflow)
    inputs = {name: x[:batch] for name, x in samples.items()}
    engines = ("reference", "program", "model", "rtl") if rtl else ("reference", "program", "model")
    found = {e: sateen.run(build, inputs, e, latency=latency, interval=interval) for e in engines}
    wanted = found["reference"].outputs
    for engine in set(engines) - {"reference", "model"}:
        for key, value in wanted.items():
            assert value.tobytes() == found[engine].outputs[key].tobytes(), f"{engine} differs on {key}"
    if rtl:
        assert found["model"].cycles == found["rtl"].cycles
        if config.counters:
            predicted = found["model"].counters
            assert predicted == {name: found["rtl"].counters[name] for name in predicted}
    return found

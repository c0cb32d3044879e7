"""A quantized graph in all engines, without a build: codes bit for bit, cycles exactly."""

from collections.abc import Collection

import numpy as np

from sateen.compiler.schedule.backend import Program, generate
from sateen.hw.chip.verilog import emit_verilog
from sateen.ir.quantized import QuantizedGraph
from sateen.machine.config import AcceleratorConfig
from sateen.sim import verilator
from sateen.sim.image import packed, places, unpacked
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.reference import quantize_inputs, reference_codes

MEMORY = MemoryTiming(latency=32, interval=1)


def interpreted(
    graph: QuantizedGraph, program: Program, codes: dict[str, np.ndarray], samples: int
) -> dict[str, np.ndarray]:
    """Results (N, H, W, C) of one run of `program.batch` samples, or of as many runs."""
    given = packed(program.inputs, codes, program.config, program.batch)
    found = program.image.interpret(given, places(program.outputs), runs=samples // program.batch)
    return unpacked(program.outputs, found, _shapes(graph), program.config)


def in_rtl(
    graph: QuantizedGraph, program: Program, codes: dict[str, np.ndarray], samples: int
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Results, and cycles of each run."""
    found = program.image.simulate(
        verilator.build(emit_verilog(program.config)),
        packed(program.inputs, codes, program.config, program.batch),
        places(program.outputs),
        runs=samples // program.batch,
        memory=MEMORY,
    )
    assert all(s.done and not s.error for s in found.samples), [s.error for s in found.samples]
    results = unpacked(program.outputs, found.outputs, _shapes(graph), program.config)
    return results, [s.cycles for s in found.samples]


def _shapes(graph: QuantizedGraph) -> dict[str, tuple[int, int, int]]:
    return {t: tensor.shape for t, tensor in graph.tensors.items()}


def check_graph(
    graph: QuantizedGraph,
    config: AcceleratorConfig,
    inputs: dict[str, np.ndarray],
    *,
    batch: int = 1,
    rtl: bool = True,
    summed: Collection[str] = (),
) -> Program:
    """AssertionError where two engines differ; tensors that are `summed` are so over the samples of a run."""
    samples = len(next(iter(inputs.values())))
    program = generate(graph, config, batch=batch)
    wanted, codes = reference_codes(graph, inputs), quantize_inputs(graph, inputs)
    engines = {"program": interpreted(graph, program, codes, samples)}
    if rtl:
        engines["rtl"], cycles = in_rtl(graph, program, codes, samples)
        assert set(cycles) == {program.predict(MEMORY).cycles}
    for engine, found in engines.items():
        for name, value in found.items():
            want = wanted[name]
            if name in summed:
                want = want.reshape(-1, batch, *want.shape[1:]).sum(1)
            assert want.shape == value.shape and (want == value).all(), f"{engine} differs on {name}"
    return program

"""A quantized graph in all engines, without a build: codes bit for bit, cycles exactly."""

from collections.abc import Collection

import numpy as np

from sateen.compiler.schedule.backend import Program, generate
from sateen.hw.chip.verilog import emit_verilog
from sateen.ir.quantized import QuantizedGraph
from sateen.machine.config import AcceleratorConfig
from sateen.sim import verilator
from sateen.sim.memory_timing import MemoryTiming
from sateen.sim.program import Interpreter
from sateen.sim.reference import quantize_inputs, reference_codes

MEMORY = MemoryTiming(latency=32, interval=1)


def unpacked(graph: QuantizedGraph, program: Program, regions: list[np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for region, data in zip(program.outputs, regions, strict=True):
        result = region.unpack(data, program.config)
        found[region.tensor] = result.reshape(-1, *graph.tensors[region.tensor].shape)
    return found


def interpreted(
    graph: QuantizedGraph, program: Program, codes: dict[str, np.ndarray], samples: int
) -> dict[str, np.ndarray]:
    """Results (N, H, W, C) of one run of `program.batch` samples, or of as many runs."""
    runs = samples // program.batch
    data = np.zeros((runs, program.data_size), np.uint8)
    for r in program.inputs:
        start = r.offset - program.data_offset
        data[:, start : start + r.size] = r.pack(codes[r.tensor], program.config, program.batch)
    Interpreter(
        program.config, program.constants, program.code, program.program_offset, data, program.data_offset
    ).run()
    starts = [(r.offset - program.data_offset, r.size) for r in program.outputs]
    return unpacked(graph, program, [data[:, at : at + size] for at, size in starts])


def in_rtl(
    graph: QuantizedGraph, program: Program, codes: dict[str, np.ndarray], samples: int
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Results, and cycles of each run."""
    image = program.constants.ljust(program.program_offset, b"\0") + program.code
    found = verilator.simulate(
        verilator.build(emit_verilog(program.config)),
        image.ljust(program.data_offset, b"\0"),
        inputs=[(r.offset, r.pack(codes[r.tensor], program.config, program.batch)) for r in program.inputs],
        outputs=[(r.offset, r.size) for r in program.outputs],
        batch=samples // program.batch,
        memory=MEMORY,
        memory_bytes=program.data_offset + program.data_size,
        program=program.program_offset,
    )
    assert all(s.done and not s.error for s in found.samples), [s.error for s in found.samples]
    return unpacked(graph, program, list(found.outputs)), [s.cycles for s in found.samples]


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

"""The four ways to run a build (reference, program, model, rtl), and what they are made of."""

from sateen.sim import model, verilator
from sateen.sim.engines import Build, RunResult, run_build
from sateen.sim.memory_timing import NOMINAL, MemoryTiming
from sateen.sim.reference import finish_outputs, quantize_inputs, run_reference

__all__ = [
    "NOMINAL",
    "Build",
    "MemoryTiming",
    "RunResult",
    "finish_outputs",
    "model",
    "quantize_inputs",
    "run_build",
    "run_reference",
    "verilator",
]

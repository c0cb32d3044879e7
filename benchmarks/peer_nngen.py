"""NNgen (pip install nngen) on a network of peers.py: int8, its Verilog in its own test bench."""

# extras: peers

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nngen as ng
import numpy as np
import veriloggen.thread as vthread
from peer_shared import Network, Row, processor_time
from veriloggen import Module, Seq, simulation
from veriloggen.types import axi

CHUNK = 64
MEMORY = 1 << 20
"""Bytes of the memory model."""
LARGEST = 127


def measure(network: Network, folder: Path) -> Row:
    row, times = Row("NNgen", network.name), []
    scale = LARGEST / float(network.x_train.max())
    with processor_time(times):
        eights = {
            f"default_{kind}_dtype": ng.int8
            for kind in ("placeholder", "variable", "constant", "operator", "scale")
        }
        outputs, inputs, *_ = ng.from_onnx(
            str(network.path), value_dtypes={}, default_bias_dtype=ng.int32, **eights
        )
        source, result = inputs[network.input], next(iter(outputs.values()))
        statistics = {
            "input_means": float(network.x_train.mean()),
            "input_stds": float(network.x_train.std()),
        }
        ng.quantize(outputs, {network.input: scale}, **{k: {network.input: v} for k, v in statistics.items()})
        machine = ng.to_veriloggen([result], "nngen", silent=True, config={"maxi_datawidth": 32})
        row.verilog, row.top = machine.to_verilog(), "nngen"
    row.seconds = times[0]
    x = np.moveaxis(network.x_test, 1, -1) if network.x_test.ndim == 4 else network.x_test
    codes = np.clip(np.round(x * scale), -LARGEST, LARGEST).astype(np.int64)
    found = np.array([ng.eval([result], **{network.input: sample[None]})[0].reshape(-1) for sample in codes])
    row.accuracy = float((found.argmax(1) == network.y_test).mean())
    if not shutil.which("iverilog"):
        row.notes.append("no cycles: iverilog is not installed")
        return row
    bench = _bench(machine, source, result, codes[0], folder)
    (folder / "bench.v").write_text(bench, encoding="utf-8")
    subprocess.run(["iverilog", "-g2005", "-o", "bench", "bench.v"], cwd=folder, check=True)
    with processor_time(times):
        text = subprocess.run(["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True).stdout
    row.cycles = int(re.search(r"cycles +(\d+)", text)[1])
    row.speed = row.cycles / times[1]
    row.exact = [int(v) for v in re.findall(r"out +(-?\d+)", text)] == found[0].tolist()
    return row


def _bench(machine: Any, source: Any, result: Any, sample: np.ndarray, folder: Path) -> str:
    """Verilog of a memory, a host that starts the machine, and the machine: prints cycles and outputs."""
    constants = ng.export_ndarray([result], CHUNK)
    at = -(-(source.addr + source.memory_size) // CHUNK) * CHUNK
    image = np.zeros(MEMORY, np.int8)
    image[at : at + len(constants)] = constants.astype(np.int8)
    words = sample.reshape(-1, sample.shape[-1])  # the innermost dimension begins a word of 32 bits
    words = np.pad(words, ((0, 0), (0, -words.shape[1] % 4))).astype(np.int8).reshape(-1)
    image[source.addr : source.addr + len(words)] = words
    bench = Module("bench")
    ports = bench.copy_sim_ports(machine)
    clk, resetn = ports["CLK"], ports["RESETN"]
    rst = bench.Wire("RST")
    bench.Assign(rst(~resetn))
    memory = axi.AxiMemoryModel(
        bench, "memory", clk, rst, datawidth=32, memimg_datawidth=32,
        memimg=image.view(np.uint32).astype(np.int64), memimg_name=str(folder / "memory.hex"),
    )  # fmt: skip
    memory.connect(ports, "maxi")
    host = vthread.AXIMLite(bench, "host", clk, rst, noio=True)
    host.connect(ports, "saxi")
    counter, begin = bench.Reg("counter", 32, initval=0), bench.Reg("begin_", 32, initval=0)
    Seq(bench, "count", clk, rst)(counter.inc())
    temporary, size, address = -(-(at + len(constants)) // CHUNK) * CHUNK, result.shape[-1], result.addr

    def run() -> None:  # veriloggen makes a state machine of its text
        for _ in range(100):
            pass
        ng.sim.set_global_addrs(host, temporary)
        begin.value = counter
        ng.sim.start(host)
        ng.sim.wait(host)
        print("cycles %d" % (counter - begin))  # noqa: UP031
        for i in range(size):
            value = memory.read_word(i, address, 8)
            print("out %d" % value)  # noqa: UP031
        vthread.finish()

    vthread.Thread(bench, "run", clk, rst, run).start()
    bench.Instance(
        machine, "machine", params=bench.connect_params(machine), ports=bench.connect_ports(machine)
    )
    simulation.setup_clock(bench, clk, hperiod=5)
    simulation.setup_reset(bench, resetn, bench.make_reset(), period=100, polarity="low")
    return bench.to_verilog()

"""da4ml (pip install da4ml) on the MLP of peers.py: every weight a constant of its adders, a sample a cycle."""

# extras: peers

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
from da4ml.codegen.rtl.rtl_model import RTLModel, get_io_kifs
from da4ml.trace import FixedVariableArrayInput, HWConfig, comb_trace
from da4ml.trace.ops import quantize, relu
from peer_shared import Network, Row, processor_time

PIXEL_BITS = 5  # 0 to 16, as they were scanned
PIXEL = 16
BITS = 8
SIMULATED = 50
"""Samples that its RTL runs."""
DELAY = 5
"""Adders between registers, its cutoff."""


def measure(network: Network, folder: Path) -> Row:
    row, times = Row("da4ml", network.name), []
    pixels = {name: np.round(x * PIXEL) for name, x in (("train", network.x_train), ("test", network.x_test))}
    with processor_time(times):
        (w1, b1), (w2, b2), step = _integers(network.path, pixels["train"])
        x = FixedVariableArrayInput((len(w1),), HWConfig(1, -1, -1))
        hidden = relu(quantize(x, 0, PIXEL_BITS, 0) @ w1 + b1)
        hidden = quantize(hidden, 0, BITS + step, -step, "SAT", "RND")
        logic = comb_trace(x, hidden @ w2 + b2)
        model = RTLModel(logic, "mlp", folder, latency_cutoff=DELAY, print_latency=False)
        model.write()
    row.seconds = times[0]
    own = "\n".join(p.read_text(encoding="utf-8") for p in sorted((folder / "src").glob("mlp*.v")))
    parts = sorted((folder / "src/static").glob("*.v"))
    used = [p.read_text(encoding="utf-8") for p in parts if re.search(rf"\b{p.stem}\s*#", own)]
    text = "\n".join([own, *used])  # Yosys looks for the file of a table that is not there
    row.verilog, row.top = text, "mlp"
    wanted = _reference(pixels["test"], w1, b1, w2, b2, step)
    row.accuracy = float((wanted.argmax(1) == network.y_test).mean())
    row.cycles = 1
    if not shutil.which("iverilog"):
        row.notes.append("not run: iverilog is not installed")
        return row
    stages = len(model._pipe.solutions) + 1
    fraction = int(get_io_kifs(logic)[1][2].max())  # (sign, integer, fraction) × outputs
    found, cycles, seconds = _simulate(
        text, pixels["test"][:SIMULATED].astype(int), wanted.shape[1], stages, folder
    )
    row.exact = np.array_equal(found * 2.0**-fraction, wanted[:SIMULATED])
    row.speed = cycles / seconds
    row.notes.append(f"a result {stages} cycles after its sample")
    return row


def _integers(
    path: Path, x: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], int]:
    """Weights of 8 bits, (inputs, outputs), and biases at the scale of their sums; hidden values are multiples of
    2**step."""
    given = {t.name: onnx.numpy_helper.to_array(t).astype(float) for t in onnx.load(path).graph.initializer}
    (w1, e1), (w2, e2) = (_rounded(w) for w in (given["w1"].T / PIXEL, given["w2"].T))
    b1 = np.round(given["b1"] * 2.0**e1)
    sums = np.maximum(x @ w1 + b1, 0)
    step = max(0, int(np.ceil(np.log2(np.quantile(sums, 0.999) / ((1 << BITS) - 1)))))
    return (w1, b1), (w2, np.round(given["b2"] * 2.0 ** (e1 + e2 - step)) * 2.0**step), step


def _rounded(w: np.ndarray) -> tuple[np.ndarray, int]:
    largest = (1 << BITS - 1) - 1
    exponent = int(np.floor(np.log2(largest / np.abs(w).max())))
    return np.clip(np.round(w * 2.0**exponent), -largest, largest), exponent


def _reference(
    x: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray, b2: np.ndarray, step: int
) -> np.ndarray:
    hidden = np.floor(np.maximum(x @ w1 + b1, 0) * 2.0**-step + 0.5)
    return np.clip(hidden, 0, (1 << BITS) - 1) * 2.0**step @ w2 + b2


def _simulate(
    text: str, x: np.ndarray, outputs: int, stages: int, folder: Path
) -> tuple[np.ndarray, int, float]:
    """(samples, outputs) integers, cycles, seconds. All samples follow one another."""
    ins, outs = (int(re.search(rf"{way} \[(\d+):0\] model_{name}", text[text.index("module mlp_wrapper") :])[1]) + 1
                 for way, name in (("input", "inp"), ("output", "out")))  # fmt: skip
    size, cycles = ins // x.shape[1], len(x) + stages
    rows = ["".join(f"{v:0{size}b}" for v in reversed(sample)) for sample in x]
    (folder / "x.bin").write_text("\n".join(rows))
    (folder / "bench.v").write_text(
        f"""{text}
module bench;
  reg clk = 0; reg [{ins - 1}:0] x [0:{len(x) - 1}]; reg [{ins - 1}:0] sample; wire [{outs - 1}:0] y; integer i;
  mlp_wrapper dut (.clk(clk), .model_inp(sample), .model_out(y));
  initial begin
    $readmemb("x.bin", x);
    for (i = 0; i < {cycles}; i = i + 1) begin
      sample = x[i < {len(x)} ? i : 0]; #1 clk = 1; #1 clk = 0; #1 if (i >= {stages - 1}) $display("%b", y);
    end
  end
endmodule
"""
    )
    subprocess.run(
        ["iverilog", "-g2005", "-o", "bench", "bench.v"], cwd=folder, check=True, capture_output=True
    )
    times: list[float] = []
    with processor_time(times):
        lines = subprocess.run(
            ["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.split()
    bits = np.array([[int(b) for b in line] for line in lines[: len(x)]])[:, ::-1].reshape(
        len(x), outputs, -1
    )
    values = bits @ (1 << np.arange(bits.shape[2]))
    return np.where(bits[:, :, -1], values - (1 << bits.shape[2]), values), cycles, times[0]

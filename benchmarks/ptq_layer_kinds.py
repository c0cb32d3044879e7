"""`--ptq fast` beside ONNX Runtime's static quantization, one kind of layer at a time, int8, on the same samples.

    python benchmarks/ptq_layer_kinds.py         the table of docs/results/ptq_layer_kinds.md

Each network is a convolution, the layer, and where it keeps planes another convolution, with seeded weights. Both are
calibrated with the same 16 samples, and compared with floating point on 16 others: the power of the output over that of
the difference, in dB. ONNX Runtime's is `quantize_static`, QDQ, int8 weights for each channel, int8 activations.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import sateen

CHANNELS, SIDE, SAMPLES = 16, 16, 16


class Builder:
    """Nodes one after another behind a 3 × 3 convolution of the image."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: object, kind: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def __call__(self, op: str, *inputs: str, **attributes: object) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op}{out}", **attributes))
        return out

    def conv(
        self, x: str, inputs: int = CHANNELS, outputs: int = CHANNELS, kernel: int = 3, groups: int = 1
    ) -> str:
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = self.rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        weight *= self.rng.uniform(0.3, 1.7, (outputs, 1, 1, 1))
        bias = self.rng.normal(0, 0.1, outputs)
        return self(
            "Conv", x, self.constant(weight), self.constant(bias), pads=[kernel // 2] * 4, group=groups
        )

    def model(self, y: str) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
        out = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "kind", [x], [out], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _resized(mode: str) -> Callable[[Builder, str], str]:
    return lambda b, x: b("Resize", x, "", b.constant([1, 1, 2, 2]), mode=mode)


def _gate(b: Builder, x: str) -> str:
    return b("Mul", x, b("Sigmoid", b.conv(b("GlobalAveragePool", x), kernel=1)))


def _gelu(b: Builder, x: str) -> str:
    erf = b("Add", b("Erf", b("Mul", x, b.constant(0.7071))), b.constant(1.0))
    return b("Mul", b("Mul", x, b.constant(0.5)), erf)


def _dense(b: Builder, x: str) -> str:
    y = b("Flatten", b("AveragePool", x, kernel_shape=[4, 4], strides=[4, 4]))
    return b("Gemm", y, b.constant(b.rng.normal(0, 0.06, (CHANNELS * 16, 32))))


def _transposed(b: Builder, x: str) -> str:
    weight = b.rng.normal(0, 0.12, (CHANNELS, CHANNELS, 3, 3))
    return b("ConvTranspose", x, b.constant(weight), strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])


KINDS: dict[str, Callable[[Builder, str], str]] = {
    "convolution": lambda b, x: b("Relu", b.conv(x)),
    "depthwise": lambda b, x: b("Relu", b.conv(x, groups=CHANNELS)),
    "grouped": lambda b, x: b("Relu", b.conv(x, groups=4)),
    "dense": _dense,
    "transposed convolution": _transposed,
    "Resize, nearest": _resized("nearest"),
    "Resize, linear": _resized("linear"),
    "max pool": lambda b, x: b("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
    "average pool": lambda b, x: b("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]),
    "average pool, padded": lambda b, x: b("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "Concat": lambda b, x: b.conv(b("Concat", x, b("Relu", b.conv(x)), axis=1), 2 * CHANNELS, kernel=1),
    "Add": lambda b, x: b("Relu", b("Add", x, b.conv(x))),
    "gate": _gate,
    "SiLU": lambda b, x: b("Mul", x, b("Sigmoid", x)),
    "HardSwish": lambda b, x: b("HardSwish", x),
    "GELU": _gelu,
    "Softmax": lambda b, x: b("Softmax", x, axis=1),
}


class _Reader(CalibrationDataReader):
    def __init__(self, samples: np.ndarray) -> None:
        self.waiting = iter({"x": s[None]} for s in samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.waiting, None)


def measure(kind: str, seed: int) -> tuple[float, float]:
    """dB of ours, and of ONNX Runtime's."""
    b = Builder(seed)
    y = KINDS[kind](b, b("Relu", b.conv("x", 3)))
    model = b.model(y if kind == "dense" else b.conv(y))
    rng = np.random.default_rng(seed + 100)
    samples = rng.normal(0, 1, (2 * SAMPLES, 3, SIDE, SIDE)).astype(np.float32)
    seen, tested = samples[:SAMPLES], samples[SAMPLES:]
    wanted = _run(model, tested)
    ours = next(
        iter(sateen.load(model).quantize(calibration={"x": seen}, ptq="fast").run({"x": tested}).values())
    )
    with tempfile.TemporaryDirectory() as folder:
        path, quantized = Path(folder) / "model.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, path)
        quantize_static(
            path, quantized, _Reader(seen), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        theirs = _run(onnx.load(quantized), tested)
    return _sqnr(wanted, ours), _sqnr(wanted, theirs)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _sqnr(wanted: np.ndarray, found: np.ndarray) -> float:
    return 10 * float(np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=KINDS, metavar="KIND", help="may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(arguments)
    print("| layer | `fast` | ONNX Runtime | difference, each seed |\n|---|--:|--:|---|")
    for kind in args.only or KINDS:
        found = [measure(kind, seed) for seed in range(args.seeds)]
        ours, theirs = (float(np.mean(column)) for column in zip(*found, strict=True))
        each = ", ".join(f"{a - b:+.1f}" for a, b in found)
        print(f"| {kind} | {ours:.1f} | {theirs:.1f} | {each} |", flush=True)


if __name__ == "__main__":
    main()

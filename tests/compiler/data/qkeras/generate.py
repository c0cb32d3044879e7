"""Makes the files beside it with QKeras, which the tests then need not install.

python generate.py [NAME ...]       (Python 3.11; pip install tensorflow-cpu==2.15.1 qkeras==0.9.0 qonnx==0.4.0
                                     tf2onnx==1.16.1 "numpy<2" onnx==1.16.2, the needs of qkeras and qonnx, no newer
                                     Keras)

For each network NAME.onnx as the converter of the qonnx package writes it; cases.npz holds the inputs "x" and "x_flat",
and by name QKeras' own output in float32. Weights and inputs are seeded. The converter
knows no QDepthwiseConv2D.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import onnx
import tensorflow as tf
from qkeras import (
    QActivation,
    QConv2D,
    QDense,
    binary,
    quantized_bits,
    quantized_relu,
    ternary,
)
from qonnx.converters.keras import from_keras
from tensorflow.keras.layers import (
    Add,
    BatchNormalization,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
)

FOLDER = Path(__file__).parent
SAMPLES, SIZE, CHANNELS, FLAT = 16, 8, 3, 20
Quantizer = Callable[[], object]


def signed(bits: int, integer: int = 0, alpha: object = 1) -> Quantizer:
    return lambda: quantized_bits(bits, integer, 1, alpha=alpha)


def dense(weight: Quantizer, bias: Quantizer | None, act: int, inputs: int = 8) -> tf.keras.Model:
    """Two dense layers, a Relu between them."""
    x = start = Input((FLAT,))
    x = QActivation(quantized_relu(inputs, 2))(x)
    given = {"kernel_quantizer": weight(), "bias_quantizer": bias and bias(), "use_bias": bias is not None}
    x = QDense(16, **given)(x)
    x = QActivation(quantized_relu(act, 2))(x)
    x = QDense(5, **given)(x)
    return tf.keras.Model(start, x)


def convolution(weight: Quantizer, act: int, normalized: bool = False) -> tf.keras.Model:
    """A convolution, batch normalization, Relu, max pooling, a further convolution, a dense layer."""
    x = start = Input((SIZE, SIZE, CHANNELS))
    x = QActivation(quantized_relu(8, 2))(x)
    given = {"kernel_quantizer": weight(), "bias_quantizer": quantized_bits(8, 2, 1, alpha=1)}
    if normalized:
        x = QConv2D(4, 3, padding="same", use_bias=False, kernel_quantizer=weight())(x)
        x = BatchNormalization()(x)
    else:
        x = QConv2D(4, 3, padding="same", **given)(x)
    x = QActivation(quantized_relu(act, 1))(x)
    x = MaxPooling2D(2)(x)
    x = QConv2D(6, 3, strides=2, **given)(x)
    x = QActivation(quantized_relu(act, 2))(x)
    x = QDense(5, **given)(Flatten()(x))
    return tf.keras.Model(start, x)


def residual() -> tf.keras.Model:
    """A shortcut around a convolution whose output is signed, a global average, a signed output."""
    x = start = Input((SIZE, SIZE, CHANNELS))
    x = QActivation(quantized_relu(8, 2))(x)
    given = {"kernel_quantizer": quantized_bits(4, 0, 1, alpha=1), "padding": "same", "use_bias": False}
    x = QActivation(quantized_relu(6, 2))(QConv2D(4, 3, **given)(x))
    y = QConv2D(4, 3, activation=quantized_bits(6, 2, 1, alpha=1), **given)(x)
    x = QActivation(quantized_relu(8, 3))(Add()([x, y]))
    x = QActivation(quantized_relu(8, 3))(GlobalAveragePooling2D()(x))
    x = QDense(5, kernel_quantizer=quantized_bits(4, 0, 1, alpha=1), use_bias=False)(x)
    return tf.keras.Model(start, QActivation(quantized_bits(6, 2, 1, alpha=1))(x))


def signs(weight: Quantizer, act: Quantizer) -> tf.keras.Model:
    """Weights and activations of two or three values."""
    x = start = Input((SIZE, SIZE, CHANNELS))
    x = QActivation(quantized_relu(8, 2))(x)
    x = QConv2D(6, 3, use_bias=False, kernel_quantizer=weight(), activation=act())(x)
    x = QConv2D(6, 3, strides=2, use_bias=False, kernel_quantizer=weight(), activation=act())(x)
    x = QDense(5, use_bias=False, kernel_quantizer=weight())(Flatten()(x))
    return tf.keras.Model(start, x)


def activations(bias: bool) -> tf.keras.Model:
    """Quantizers as the activations of layers, signed and unsigned."""
    x = start = Input((FLAT,))
    x = QActivation(quantized_relu(8, 2))(x)
    given = {"kernel_quantizer": quantized_bits(6, 0, 1, alpha=1), "use_bias": bias}
    given |= {"bias_quantizer": quantized_bits(6, 1, 1, alpha=1)} if bias else {}
    x = QDense(16, activation=quantized_relu(6, 2), **given)(x)
    x = QDense(8, activation=quantized_bits(6, 2, 1, alpha=1), **given)(x)
    x = QDense(5, **given)(x)
    return tf.keras.Model(start, x)


def signed_input() -> tf.keras.Model:
    """The converter leaves out a quantizer that is a layer by itself and no Relu."""
    x = start = Input((FLAT,))
    x = QActivation(quantized_bits(8, 2, 1, alpha=1))(x)
    x = QDense(5, kernel_quantizer=quantized_bits(6, 0, 1, alpha=1), use_bias=False)(x)
    return tf.keras.Model(start, x)


CASES: dict[str, Callable[[], tf.keras.Model]] = {
    "dense_8": lambda: dense(signed(8), signed(8, 2), 8),
    "dense_4": lambda: dense(signed(4), signed(4, 1), 4),
    "dense_2": lambda: dense(signed(2, 1), None, 2),
    "dense_wide": lambda: dense(signed(8, 3), signed(8, 3), 6, inputs=6),
    "dense_auto_po2": lambda: dense(signed(4, 0, "auto_po2"), signed(8, 2), 6),
    "conv_8": lambda: convolution(signed(8), 8),
    "conv_4": lambda: convolution(signed(4), 4),
    "conv_2": lambda: convolution(signed(2, 1), 2),
    "conv_normalized": lambda: convolution(signed(4), 6, normalized=True),
    "residual": residual,
    "binary": lambda: signs(lambda: binary(alpha=1), lambda: binary(alpha=1)),
    "ternary": lambda: signs(
        lambda: ternary(alpha=1, threshold=0.5), lambda: ternary(alpha=1, threshold=0.5)
    ),
    "activations": lambda: activations(bias=False),
    "activations_bias": lambda: activations(bias=True),
    "signed_input": signed_input,
}


def make(name: str) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """The exported model, an input, and what QKeras makes of it."""
    tf.keras.utils.set_random_seed(0)
    model = CASES[name]()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            shapes = [w.shape for w in layer.get_weights()]
            ranges = ((0.5, 1.5), (-0.3, 0.3), (-0.2, 0.2), (0.2, 0.6))
            layer.set_weights([rng.uniform(*r, s) for r, s in zip(ranges, shapes, strict=True)])
        elif "bias" in " ".join(w.name for w in layer.weights):
            layer.set_weights([*layer.get_weights()[:-1], rng.uniform(-0.5, 0.5, layer.weights[-1].shape)])
    x = np.random.default_rng(1).normal(0, 1.3, (SAMPLES, *model.input_shape[1:])).astype(np.float32)
    y = model.predict(x, verbose=0)
    exported, _ = from_keras(model, name=name, opset=13)
    for part in (exported.graph, *exported.graph.node):
        part.ClearField("doc_string")
    del exported.graph.value_info[:]
    return exported, x, y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CASES))
    names = parser.parse_args().names or list(CASES)
    path = FOLDER / "cases.npz"
    arrays = dict(np.load(path)) if path.exists() else {}
    for name in names:
        model, x, y = make(name)
        onnx.save(model, FOLDER / f"{name}.onnx")
        arrays["x" if x.ndim == 4 else "x_flat"], arrays[name] = x, y
        print(name, model.ByteSize(), y.shape, float(np.ptp(y)))
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()

"""Products of two computed tensors as exporters write them. `row` is what stands between scores and values."""

from __future__ import annotations

import numpy as np
from onnx_nets import Net


def linear(net: Net, x: str, inputs: int, outputs: int) -> str:
    y = net("MatMul", x, net.random(inputs, outputs, scale=inputs**-0.5))
    return net("Add", y, net.random(outputs, scale=0.1))


def scaled(net: Net, x: str, d: int) -> str:
    return net("Mul", x, net.constant(np.float32(d**-0.5)))


def fused(heads: int = 2, d: int = 4, tokens: int = 5, row: str = "Softmax", features: int = 8) -> Net:
    """timm's: one projection for queries, keys and values, which a Gather of a transposed Reshape takes apart."""
    net = Net()
    x = net.input(1, tokens, features)
    qkv = net("Reshape", linear(net, x, features, 3 * heads * d), net.constant([1, tokens, 3, heads, d]))
    qkv = net("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (net("Gather", qkv, net.constant(i), axis=0) for i in range(3))
    s = scaled(net, net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])), d)
    y = net("MatMul", net(row, s), v)
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.constant([1, tokens, heads * d]))
    return net.output(linear(net, y, heads * d, features))


def apart(heads: int = 2, d: int = 4, tokens: int = 5, row: str = "Softmax", features: int = 8) -> Net:
    """transformers': three projections, scores divided, another sequence for keys and values."""
    net = Net()
    x, other = net.input("N", tokens, features), net.input("N", tokens + 2, features, name="y")

    def split(x: str, tokens: int) -> str:
        y = net("Reshape", linear(net, x, features, heads * d), net.constant([0, tokens, heads, d]))
        return net("Transpose", y, perm=[0, 2, 1, 3])

    q, k, v = split(x, tokens), split(other, tokens + 2), split(other, tokens + 2)
    s = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    y = net("MatMul", net(row, net("Div", s, net.constant(np.float32(d**0.5)))), v)
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.constant([0, tokens, heads * d]))
    return net.output(linear(net, y, heads * d, features))


def multihead(heads: int = 2, d: int = 4, tokens: int = 5, row: str = "Softmax", features: int = 8) -> Net:
    """torch's MultiheadAttention: tokens first, heads merged with the batch, both factors scaled."""
    net = Net()
    x = net("Transpose", net.input(1, tokens, features), perm=[1, 0, 2])
    qkv = linear(net, x, features, 3 * heads * d)
    qkv = net("Unsqueeze", net("Reshape", qkv, net.constant([tokens, 1, 3, heads * d])), net.constant([0]))
    qkv = net("Squeeze", net("Transpose", qkv, perm=[3, 1, 2, 0, 4]), net.constant([3]))
    q, k, v = (net("Gather", qkv, net.constant(i), axis=0) for i in range(3))
    q, k, v = (net("Reshape", t, net.constant([tokens, heads, d])) for t in (q, k, v))
    q, k, v = (net("Transpose", t, perm=[1, 0, 2]) for t in (q, k, v))
    q = net("Mul", q, net.constant(np.float32(d**-0.25)))
    k = net("Mul", net("Transpose", k, perm=[0, 2, 1]), net.constant(np.float32(d**-0.25)))
    y = net("MatMul", net(row, net("MatMul", q, k)), v)
    y = net("Reshape", net("Transpose", y, perm=[1, 0, 2]), net.constant([tokens, heads * d]))
    y = net("Gemm", y, net.random(features, heads * d), net.random(features), transB=1)
    return net.output(
        net("Transpose", net("Reshape", y, net.constant([tokens, 1, features])), perm=[1, 0, 2])
    )


def windows(heads: int = 2, d: int = 4, side: int = 4, row: str = "Softmax", features: int = 8) -> Net:
    """Swin's: windows of an image are a batch before the heads."""
    net, half, tokens = Net(), side // 2, 4
    x = net("Transpose", net.conv(net.input(1, 3, side, side), 3, features, 1, 1), perm=[0, 2, 3, 1])
    x = net("Reshape", x, net.constant([1, half, 2, half, 2, features]))
    x = net("Transpose", x, perm=[0, 1, 3, 2, 4, 5])
    x = net("Reshape", x, net.constant([half * half, tokens, features]))
    qkv = net(
        "Reshape", linear(net, x, features, 3 * heads * d), net.constant([half * half, tokens, 3, heads, d])
    )
    q, k, v = (
        net("Squeeze", t, net.constant([0])) for t in split3(net, net("Transpose", qkv, perm=[2, 0, 3, 1, 4]))
    )
    s = net("MatMul", scaled(net, q, d), net("Transpose", k, perm=[0, 1, 3, 2]))
    y = net("Transpose", net("MatMul", net(row, s), v), perm=[0, 2, 1, 3])
    y = linear(net, net("Reshape", y, net.constant([half * half, tokens, heads * d])), heads * d, features)
    y = net(
        "Transpose", net("Reshape", y, net.constant([1, half, half, 2, 2, features])), perm=[0, 1, 3, 2, 4, 5]
    )
    return net.output(net("Reshape", y, net.constant([1, side, side, features])))


def split3(net: Net, x: str) -> list[str]:
    first = net("Split", x, outputs=3, axis=0)
    return [first, f"{first}_1", f"{first}_2"]


def matrices(m: int = 5, k: int = 6, n: int = 7) -> Net:
    """No batch: the product of two layers' results, and its transpose times another."""
    net = Net()
    x, y = net.input(1, m, 4), net.input(1, n, 4, name="y")
    a, b = linear(net, x, 4, k), linear(net, y, 4, k)
    p = net("MatMul", a, net("Transpose", b, perm=[0, 2, 1]))
    return net.output(p, net("Relu", net("MatMul", p, net("Relu", b))))


def gemm(m: int = 4, k: int = 6, n: int = 3) -> Net:
    """Gemm's own transposes, factor and offset."""
    net = Net()
    x, y = net.input(1, m, 5), net.input(1, n, 5, name="y")
    x, y = net("Reshape", x, net.constant([m, 5])), net("Reshape", y, net.constant([n, 5]))
    a, b = net("Gemm", x, net.random(5, k), net.random(k)), net("Gemm", y, net.random(5, k), net.random(k))
    return net.output(net("Relu", net("Gemm", a, b, net.random(n), transB=1, alpha=0.5, beta=2.0)))


def causal(heads: int = 2, d: int = 4, tokens: int = 5, features: int = 8) -> Net:
    """One operator, in which keys and values are shared, no query sees later ones, and earlier ones count less."""
    net = Net(23)
    x = net.input(1, tokens, features)
    q = linear(net, x, features, heads * d)
    k, v = linear(net, x, features, d), linear(net, x, features, d)
    distance = np.arange(tokens)[:, None] - np.arange(tokens)
    mask = net.constant((-0.2 * distance).astype(np.float32))
    y = net("Attention", q, k, v, mask, q_num_heads=heads, kv_num_heads=1, is_causal=1)
    return net.output(linear(net, y, heads * d, features))


def relative(heads: int = 2, d: int = 4, tokens: int = 5, row: str = "Softmax", features: int = 8) -> Net:
    """Conformer's: scores of places by a constant matrix, each row cut one further on than the one before."""
    net = Net()
    x = net.input(1, tokens, features)
    heads_of = [
        net("Reshape", linear(net, x, features, heads * d), net.constant([1, tokens, heads, d]))
        for _ in range(3)
    ]
    q, k, v = (net("Transpose", t, perm=[0, 2, 1, 3]) for t in heads_of)
    places = net("MatMul", q, net.random(1, heads, d, 2 * tokens - 1))
    padded = net("Pad", places, net.constant([0, 0, 0, 1, 0, 0, 0, 0]))
    turned = net("Reshape", padded, net.constant([1, heads, 2 * tokens, tokens]))
    turned = net("Slice", turned, *(net.constant([n]) for n in (1, 2 * tokens, 2)))
    shifted = net("Reshape", turned, net.constant([1, heads, tokens, 2 * tokens - 1]))
    shifted = net("Slice", shifted, *(net.constant([n]) for n in (0, tokens, 3)))
    s = net("Add", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])), shifted)
    y = net("MatMul", net(row, scaled(net, s, d)), v)
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.constant([1, tokens, heads * d]))
    return net.output(linear(net, y, heads * d, features))


def biased(heads: int = 2, d: int = 3, tokens: int = 5, row: str = "Softmax", features: int = 6) -> Net:
    """Biases of positions and a mask on the scores, and the values' sum with what was projected."""
    net = Net()
    x = net.input(1, tokens, features)
    q, k, v = (linear(net, x, features, heads * d) for _ in range(3))
    parts = [net("Reshape", t, net.constant([1, tokens, heads, d])) for t in (q, k, v)]
    q4, k4, v4 = (net("Transpose", t, perm=[0, 2, 1, 3]) for t in parts)
    s = net("MatMul", scaled(net, q4, d), net("Transpose", k4, perm=[0, 1, 3, 2]))
    s = net("Add", net.random(1, heads, tokens, tokens), s)
    mask = np.where(np.tri(tokens) > 0, 0.0, -100.0).astype(np.float32)
    s = net("Add", s, net.constant(mask[None, None]))
    y = net("Transpose", net("MatMul", net(row, s), v4), perm=[0, 2, 1, 3])
    y = net("Add", net("Reshape", y, net.constant([1, tokens, heads * d])), v)
    return net.output(linear(net, y, heads * d, features))


NETS = {
    "biased": biased,
    "fused": fused,
    "apart": apart,
    "multihead": multihead,
    "windows": windows,
    "causal": causal,
    "matrices": matrices,
    "gemm": gemm,
    "relative": relative,
}

"""Networks whose channels and pixels change places, by so many that it is a product with an identity."""

from __future__ import annotations

from onnx_nets import Net


def mixer(channels: int = 120, h: int = 4, w: int = 5, hidden: int = 24) -> Net:
    """A block of an MLP mixer: tokens are mixed where channels are, and the result is added to the image."""
    net = Net()
    image = net("Relu", net.conv(net.input("N", 3, h, w), 3, channels, 1, 1))
    tokens = net("Reshape", image, net.constant([0, channels, h * w]))
    y = net("Relu", net("MatMul", tokens, net.random(h * w, hidden, scale=0.2)))
    y = net("MatMul", y, net.random(hidden, h * w, scale=0.2))
    y = net("Add", net("Reshape", y, net.constant([0, channels, h, w])), image)
    return net.output(net.conv(y, channels, 4, 1, 1))


def channel_attention(channels: int = 144, between: int = 2) -> Net:
    """Convolutions along the channels of pooled pixels gate the image; one alone, in ECA."""
    net = Net()
    image = net.conv(net.input("N", 3, 3, 4), 3, channels, 1, 1)
    pooled = net("Reshape", net("GlobalAveragePool", image), net.constant([0, 1, channels]))
    if between:
        pooled = net("Relu", net.conv(pooled, 1, between, 3, pads=[1, 1]))
    gate = net("Sigmoid", net("Conv", pooled, net.random(1, max(between, 1), 3), pads=[1, 1]))
    gate = net("Reshape", gate, net.constant([0, channels, 1, 1]))
    return net.output(net.conv(net("Mul", image, gate), channels, 4, 1, 1))


def cross_covariance(heads: int = 2, d: int = 12, tokens: int = 120) -> Net:
    """XCiT: channels attend to channels, so that queries and keys are transposed, head by head."""
    net = Net()
    size = heads * d
    x = net("MatMul", net.input("N", tokens, 6), net.random(6, 3 * size))
    qkv = net("Transpose", net("Reshape", x, net.constant([0, tokens, 3, heads, d])), perm=[2, 0, 3, 4, 1])
    q, k, v = (net("Gather", qkv, net.constant(i), axis=0) for i in range(3))
    s = net("Relu", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])))
    y = net("Transpose", net("MatMul", s, v), perm=[0, 3, 1, 2])
    y = net("Reshape", y, net.constant([0, tokens, size]))
    return net.output(net("MatMul", y, net.random(size, 5, scale=0.01)))


def windows(channels: int = 128) -> Net:
    """Tokens of windows of an image, 2 rows of 4, mixed in each window; windows become the rows."""
    net = Net()
    image = net.conv(net.input("N", 2, 4, 8), 2, channels, 1, 1)
    y = net("Reshape", image, net.constant([0, channels, 2, 2, 2, 4]))
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 4, 1, 3, 5]), net.constant([0, 4, channels, 8]))
    return net.output(net("MatMul", y, net.random(8, 6)))


NETS = {"mixer": mixer, "channel attention": channel_attention, "XCiT": cross_covariance, "windows": windows}

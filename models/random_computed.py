"""Random networks that multiply computed tensors, normalize, attend, remember and enlarge: the other half of what the
fuzzer feeds the engines, beside `random_network`, whose blocks they have too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from sateen.models.network_builder import NetworkBuilder
from sateen.models.random_network import SCALES, SHARES, Grower, Scale

GATES = ("Sigmoid", "Tanh", "HardSigmoid", "Relu", "Softplus")
MOST_TOKENS = 40


def random_computed_network(seed: int, scale: Scale | None = None) -> onnx.ModelProto:
    """The network of a seed; of `scale`, or of one of SCALES by chance."""
    rng = np.random.default_rng([seed, 11])
    if scale is None:
        scale = SCALES[str(rng.choice(list(SCALES), p=SHARES))]
    return _ComputedGrower(NetworkBuilder(rng), scale).grown()


class _ComputedGrower(Grower):
    def blocks(self) -> Sequence[Callable[[], None]]:
        own = (
            self.gated, self.excited, self.extreme, self.quotient, self.softmax, self.normalized, self.attention,
            self.recurrent, self.enlarged, self.transposed,
        )  # fmt: skip
        return (*own, *own, *super().blocks())

    def same(self, name: str, like: str) -> str:
        return self.b.derived(name, self.b.shapes[like], self.b.power[like])

    def constant(self, name: str, *values: int) -> str:
        return self.b.constant(name, np.array(values, np.int64))

    # -- two computed tensors -------------------------------------------------------------------------------

    def operands(self) -> tuple[str, str]:
        """Two tensors of one shape, sometimes one of them of a single row, column or channel."""
        x = self.source()
        if self.chance(0.5):
            return x, self.use(self.one(self.like(x, channels=True)))
        name, shape = self.name("mean"), self.b.shapes[x]
        axes = [a for a in range(len(shape)) if shape[a] == 1 or self.chance(0.4)]
        if not axes:
            return x, self.convolve(x, shape[0], same=True, groups=1)
        if 0 in axes:
            axes, y = [a for a in axes if a], self.convolve(x, 1, same=True, groups=1)
        else:
            y = x
        if not axes:
            return x, y
        self.b.node("ReduceMean", name, [y], axes=[a + 1 for a in axes], keepdims=1)
        shape = tuple(1 if a in axes else n for a, n in enumerate(self.b.shapes[y]))
        return x, self.b.derived(name, shape, 0.5 * self.b.power[y])

    def pair(self, op: str, a: str, b: str) -> None:
        name = self.name(op.lower())
        self.b.node(op, name, [b, a] if op != "Div" and self.chance(0.5) else [a, b])
        self.add_block(self.same(name, a))

    def gated(self) -> None:
        x, y = self.operands()
        self.pair("Mul", x, self.b.function(self.one(GATES), self.name("gate"), y) if self.chance(0.7) else y)

    def excited(self) -> None:
        x = self.source()
        outer = self.one(("Sigmoid", "HardSigmoid"))
        self.add_block(self.b.gate(self.name("se"), x, self.any(1, 6), self.one(("Relu", "Silu")), outer))

    def extreme(self) -> None:
        self.pair(self.one(("Max", "Min", "Sub")), *self.operands())

    def quotient(self) -> None:
        x, y = self.operands()
        self.pair(
            "Div", x, self.b.function("Exp", self.name("exp"), self.b.function("Tanh", self.name("tanh"), y))
        )

    # -- statistics of the sample ---------------------------------------------------------------------------

    def softmax(self) -> None:
        x = self.convolve(self.source(), self.any(1, self.scale.channels), same=True)
        name = self.name("softmax")
        self.b.node("Softmax", name, [x], axis=1)
        self.add_block(self.b.derived(name, self.b.shapes[x], 0.1))

    def normalized(self) -> None:
        x = self.source()
        channels, *plane = self.b.shapes[x]
        groups = [g for g in range(1, channels + 1) if channels % g == 0]
        name = self.name("norm")
        g = groups[self.any(0, len(groups) - 1)] if len(plane) == 2 else channels
        y = x
        if g != channels:
            y = self.b.node("Reshape", f"{name}.grouped", [x, self.constant(f"{name}.split", 1, g, -1)])
        ones = self.b.constant(f"{name}.one", np.ones(g, np.float32))
        zeros = self.b.constant(f"{name}.zero", np.zeros(g, np.float32))
        inner = name if g == channels else f"{name}.inner"
        self.b.node("InstanceNormalization", inner, [y, ones, zeros], epsilon=1e-3)
        if g != channels:
            self.b.node("Reshape", name, [inner, self.constant(f"{name}.merged", 1, channels, *plane)])
        self.add_block(self.b.derived(name, self.b.shapes[x], 1.0))

    # -- attention ------------------------------------------------------------------------------------------

    def attention(self) -> None:
        """Of pixels, in heads; sometimes without its softmax, sometimes behind a LayerNormalization."""
        x = self.source()
        channels, *plane = self.b.shapes[x]
        tokens = math.prod(plane)
        if tokens > MOST_TOKENS:
            return
        n, heads, size = self.name("attention"), self.any(1, 3), self.any(1, 9)
        lines = self.b.lines(f"{n}.lines", x)
        y = self.b.node("Transpose", f"{n}.tokens", [lines], perm=[0, 2, 1])
        if self.chance(0.6):
            scale, bias = (
                self.b.constant(f"{n}.{part}", self.b.rng.normal(mean, 0.2, channels).astype(np.float32))
                for part, mean in (("gamma", 1.0), ("beta", 0.0))
            )
            y = self.b.node("LayerNormalization", f"{n}.norm", [y, scale, bias], axis=-1)
        split = self.constant(f"{n}.split", 1, tokens, heads, size)
        parts = []
        for part, perm in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
            values = self.b.rng.standard_normal((channels, heads * size)) / math.sqrt(channels)
            weight = self.b.constant(f"{n}.{part}.weight", values.astype(np.float32))
            z = self.b.node("MatMul", f"{n}.{part}", [y, weight])
            z = self.b.node("Reshape", f"{n}.{part}.split", [z, split])
            parts.append(self.b.node("Transpose", f"{n}.{part}.heads", [z], perm=list(perm)))
        scores = self.b.node("MatMul", f"{n}.scores", parts[:2])
        root = self.b.constant(f"{n}.root", np.array(size**-0.5, np.float32))
        scores = self.b.node("Mul", f"{n}.scaled", [scores, root])
        if self.chance(0.8):
            scores = self.b.node("Softmax", f"{n}.softmax", [scores], axis=-1)
        z = self.b.node("MatMul", f"{n}.mixed", [scores, parts[2]])
        z = self.b.node("Transpose", f"{n}.turned", [z], perm=[0, 2, 1, 3])
        z = self.b.node("Reshape", f"{n}.merged", [z, self.constant(f"{n}.width", 1, tokens, heads * size)])
        values = self.b.rng.standard_normal((heads * size, channels)) / math.sqrt(heads * size)
        z = self.b.node("MatMul", f"{n}.out", [z, self.b.constant(f"{n}.weight", values.astype(np.float32))])
        z = self.b.node("Transpose", f"{n}.lines.out", [z], perm=[0, 2, 1])
        self.b.node("Reshape", n, [z, self.constant(f"{n}.plane", 1, channels, *plane)])
        self.add_block(self.b.derived(n, self.b.shapes[x], 1.0))
        self.spent += tokens * channels * heads * size * 4 + 2 * tokens * tokens * heads * size

    def recurrent(self) -> None:
        """Columns are steps; what comes last is an output, whole or its last step."""
        x = self.source()
        channels, *plane = self.b.shapes[x]
        steps = plane[-1]
        if math.prod(plane[:-1]) * channels > 40 or steps > 12:
            return
        n, op, both = self.name("recurrent"), self.one(("LSTM", "GRU", "RNN")), self.chance(0.3)
        features, hidden, ways = math.prod(plane[:-1]) * channels, self.any(1, 8), 1 + both
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
        y = self.b.node("Reshape", f"{n}.lines", [x, self.constant(f"{n}.shape", 1, features, steps)])
        y = self.b.node("Transpose", f"{n}.steps", [y], perm=[2, 0, 1])
        shapes = {"w": (ways, gates * hidden, features), "r": (ways, gates * hidden, hidden)}
        weights = [
            self.b.constant(
                f"{n}.{part}", (self.b.rng.standard_normal(s) / math.sqrt(s[-1])).astype(np.float32)
            )
            for part, s in shapes.items()
        ]
        bias = self.b.constant(
            f"{n}.b", (0.1 * self.b.rng.standard_normal((ways, 2 * gates * hidden))).astype(np.float32)
        )
        how = {"linear_before_reset": int(self.chance(0.5))} if op == "GRU" else {}
        direction = "bidirectional" if both else self.one(("forward", "reverse"))
        self.b.node(
            op, f"{n}.cell", [y, *weights, bias], [f"{n}.all", f"{n}.last"], hidden_size=hidden,
            direction=direction, **how,
        )  # fmt: skip
        if self.chance(0.5):
            z = self.b.node("Transpose", f"{n}.turned", [f"{n}.all"], perm=[2, 1, 3, 0])
            self.b.node("Reshape", n, [z, self.constant(f"{n}.out", 1, ways * hidden, steps)])
            self.outputs.append(self.b.derived(n, (ways * hidden, steps), 0.3))
        else:
            z = self.b.node("Transpose", f"{n}.turned", [f"{n}.last"], perm=[1, 0, 2])
            self.b.node("Reshape", n, [z, self.constant(f"{n}.out", 1, ways * hidden)])
            self.outputs.append(self.b.derived(n, (ways * hidden,), 0.3))

    # -- larger planes --------------------------------------------------------------------------------------

    def enlarged(self) -> None:
        x = self.source()
        size = self.b.shapes[x][1:]
        if max(size) > self.scale.side:
            return
        n = self.name("resize")
        wanted = [self.any(max(1, s // 2), 2 * s + 1) if self.chance(0.5) else 2 * s for s in size]
        how = self.one(("half_pixel", "align_corners", "asymmetric"))
        mode = self.one(("nearest", "linear"))
        sizes = self.constant(f"{n}.sizes", 1, self.b.shapes[x][0], *wanted)
        self.b.node("Resize", n, [x, "", "", sizes], mode=mode, coordinate_transformation_mode=how)
        self.add_block(self.b.derived(n, (self.b.shapes[x][0], *wanted), self.b.power[x]))

    def transposed(self) -> None:
        x = self.source()
        if len(self.b.shapes[x]) == 3 and max(self.b.shapes[x][1:]) <= self.scale.side // 2:
            stride = self.any(1, 3)
            y = self.b.conv_transpose(
                self.name("up"), x, self.any(1, self.scale.channels // 2), stride * self.any(1, 2), stride
            )
            self.add_block(y)

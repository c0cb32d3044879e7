"""Which floating-point nodes become one pass through the array: Conv, Add and Activation in a row.

    Conv | average Pool | (nothing)   ->   Add   ->   Activation

A missing first part is an identity that carries the codes through the array. Only a tensor with a single
reader, which is no graph output, may disappear between two nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sateen.errors import ModelError
from sateen.ir.graph import Activation, Add, Concat, Conv, Graph, Node, Pool


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass through the array. `main` None is an identity; `before` is what the table reads."""

    name: str
    main: Conv | Pool | None
    input: str
    output: str
    residual: str | None = None
    activation: Activation | None = None
    before: str | None = None
    source: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,) + ((self.residual,) if self.residual else ())

    @property
    def table(self) -> bool:
        """Whether the activation needs one: a clip is a clamp."""
        return self.activation is not None and self.activation.function != "clip"

    @property
    def requantized(self) -> str:
        """The tensor that the sum is rounded to: the output, or what the table reads."""
        return self.before if self.table and self.before else self.output


Step = Pass | Pool | Concat


def fuse(graph: Graph) -> tuple[Step, ...]:
    """The graph's nodes as passes, max Pools and Concats, in an order in which they can run."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for tensor in set(node.inputs):
            readers.setdefault(tensor, []).append(node)
    results = {o.tensor for o in graph.outputs}

    def sole_reader(tensor: str) -> Node | None:
        found = readers.get(tensor, [])
        return found[0] if len(found) == 1 and tensor not in results else None

    steps: list[Step] = []
    waiting: dict[str, Pass] = {}  # output -> a pass that its Add may take over
    for node in graph.nodes:
        match node:
            case Conv() | Pool(kind="average"):
                new = Pass(node.name, node, node.input, node.output, source=(node.name,))
                # what the file rounds before the Add is a tensor of its own
                if isinstance(sole_reader(node.output), Add) and node.output not in graph.quantizers:
                    waiting[node.output] = new
            case Add(input_a=a, input_b=b):
                # the side that was written later is fused: the other is there already when it runs
                later = a if _position(steps, a) > _position(steps, b) else b
                main = later if later in waiting else a if a in waiting else b
                if main in waiting and a != b:
                    taken = waiting.pop(main)
                    steps.remove(taken)
                    other = b if main == a else a
                    new = replace(
                        taken, output=node.output, residual=other, source=(*taken.source, node.name)
                    )
                else:
                    new = Pass(node.name, None, a, node.output, residual=b, source=(node.name,))
            case Activation():
                taken_by = next((s for s in steps if isinstance(s, Pass) and s.output == node.input), None)
                if taken_by and taken_by.activation is None and sole_reader(node.input) is node:
                    steps.remove(taken_by)
                    waiting.pop(node.input, None)
                    new = replace(
                        taken_by,
                        output=node.output,
                        activation=node,
                        before=node.input,
                        source=(*taken_by.source, node.name),
                    )
                else:
                    new = Pass(
                        node.name,
                        None,
                        node.input,
                        node.output,
                        activation=node,
                        before=node.input,
                        source=(node.name,),
                    )
            case Pool() | Concat():
                steps.append(node)
                continue
            case _:
                raise ModelError(f"'{node.name}' is a quantizer, which import should have taken out")
        steps.append(new)
    return tuple(steps)


def _position(steps: list[Step], tensor: str) -> int:
    return next((i for i, s in enumerate(steps) if s.output == tensor), -1)


def shared_scales(steps: tuple[Step, ...], tensors: list[str]) -> dict[str, str]:
    """For each tensor the representative of those that must share its scale: through max Pool and Concat."""
    parent = {t: t for t in tensors}

    def find(t: str) -> str:
        while parent[t] != t:
            parent[t] = parent[parent[t]]
            t = parent[t]
        return t

    for step in steps:
        if isinstance(step, Pool | Concat):
            for i in step.inputs:
                parent[find(i)] = find(step.output)
    return {t: find(t) for t in tensors}

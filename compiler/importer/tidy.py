"""The passes that an imported graph goes through, in order."""

from __future__ import annotations

from collections.abc import Callable

from sateen.compiler.importer import passes
from sateen.compiler.importer.gathered import gather_moves
from sateen.compiler.importer.sums import constants_together
from sateen.ir.graph import Graph

Rewrite = Callable[[Graph], "Graph | None"]

PASSES: tuple[Rewrite, ...] = (
    passes.merge_padding,  # before anything turns pure padding into a scaled one
    constants_together,
    gather_moves,  # before a copy takes scales
    passes.order_into_consumer,
    passes.stride_into_consumer,
    passes.affine_into_producer,
    passes.affine_into_product,
    passes.affine_into_consumers,  # what no producer took
    passes.affine_into_normalize,  # what no consumer took
    passes.selection_into_producer,  # which makes several of a consumer
    gather_moves,  # before the several
    passes.affine_into_producer,  # scales that came beside one
    passes.compose_functions,  # after the scales that a convolution can take for nothing
    passes.drop_identity,
)


def tidy(graph: Graph) -> Graph:
    """All passes, until nothing changes."""
    graph = passes.drop_dead(graph)
    for rewrite in PASSES:
        while (changed := rewrite(graph)) is not None:
            graph = passes.drop_dead(changed)
    return graph

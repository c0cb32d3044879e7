"""Products of two computed tensors: what ONNX Runtime computes, without a copy of what a layer has written."""

import pytest
from attention_nets import NETS
from onnx_nets import compare, kinds


@pytest.mark.parametrize("name", NETS)
def test_the_values_are_those_of_onnx_runtime(name):
    compare(NETS[name]())


@pytest.mark.parametrize("name", ["fused", "apart"])
def test_heads_are_views(name):
    """Projections, two products, the function between them, the output's projection: nothing else."""
    graph = compare(NETS[name]())
    assert kinds(graph) == ["Conv"] * 3 + ["MatMul", "Softmax", "MatMul", "Conv"]

"""N:M sparsity of weights: recognised, checked, and brought about."""

from sateen.compiler.prune.one_shot import METHODS, keep_largest, sparsify

__all__ = ["METHODS", "keep_largest", "sparsify"]

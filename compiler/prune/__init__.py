"""N:M sparsity of weights: recognised, checked, and brought about."""

"""The matrix unit: the array, its elements and accumulators, and the order in which they work."""

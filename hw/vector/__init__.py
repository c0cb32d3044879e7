"""The vector unit: accumulators to codes (DRAIN) and planes to smaller ones (POOL), both through the requantizer."""

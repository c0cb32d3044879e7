"""The float network to the quantized one: calibration, scales, zero points, residuals, the bounds of sums."""

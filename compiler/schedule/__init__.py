"""The quantized network to instructions: tiles, cuts, places, order, tokens, and the cycles that they take."""

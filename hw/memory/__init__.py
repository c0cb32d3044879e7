"""Memory: the buffers on chip, and the units that fill them from AXI (LOAD) and empty them (STORE)."""

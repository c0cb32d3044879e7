"""The tools' flow: synthesis, netlist passes and proofs, place and route, bitstreams, Vivado projects."""

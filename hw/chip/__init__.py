"""The chip: the machine's top level, the system around it with its serial link, and the Verilog of both."""

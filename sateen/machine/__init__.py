"""What a machine is, in pure Python: its instruction set."""

"""Control: the program's fetch and dispatch, the tokens between units, and the registers that the host sees."""

"""What multiply-accumulate units of every format cost, measured."""

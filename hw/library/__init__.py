"""Circuits that stand beside the machine and are no part of it: multiply-accumulate units of every format."""

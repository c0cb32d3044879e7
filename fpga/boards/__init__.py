"""Boards and parts: their pins, clocks and primitives, the chip around the machine, the serial link's host side."""

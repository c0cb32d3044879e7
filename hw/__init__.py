"""The accelerator in Amaranth: what its rooms share is here; a unit or a trade has its own."""

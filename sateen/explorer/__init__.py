"""Which machine, formats and sparsity: a search over the exact cycle model, the resource model and the reference.

`candidate` says what is chosen, `space` from what, `target` where it has to fit, `goals` what counts, `evaluate` how a
candidate is measured, `search` in which order, `study` where all of it is kept.
"""

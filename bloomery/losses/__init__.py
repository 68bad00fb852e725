"""Pure functions, tensors in, tensors out: one short book of equations."""

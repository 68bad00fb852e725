"""The one optimisation loop: objective, state, step, schedule, precision, checkpoints, hooks."""

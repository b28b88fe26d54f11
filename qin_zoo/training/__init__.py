"""The training loop: steps, looks at the validation rows, checkpoints, and what stops it."""

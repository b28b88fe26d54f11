"""An experiment: read and checked, run, scored, and everything that is kept of it."""

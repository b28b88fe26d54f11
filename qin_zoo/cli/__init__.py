"""The `qin-zoo` command: one module per command."""

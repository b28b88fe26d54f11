"""Layers: plain PyTorch modules, each the fast exact form of a formula of the design. They know torch only."""

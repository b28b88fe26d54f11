"""qin-zoo: a plugin model zoo for multimodal click-through-rate prediction on FuxiCTR and PyTorch."""

__version__ = "0.1.0"

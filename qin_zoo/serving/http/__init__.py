"""An exported model as an HTTP service; nothing here imports torch, FuxiCTR or Ray."""

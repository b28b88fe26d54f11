"""The data path: files to columns, columns to batches."""

SPLITS = ("train", "valid", "test")

"""The data path: files to columns, columns to batches."""

"""The data path: files to columns, columns to batches."""

SPLITS = ("train", "valid", "test")
USERS = ("user_id", "userid", "user", "user_index", "uid")  # how public data sets call the column of the row's user

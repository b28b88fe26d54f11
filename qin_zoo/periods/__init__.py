"""Training from period to period: what has gone stale, which rows are trained again, and how far rows may move."""

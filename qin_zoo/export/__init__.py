"""Trained models to files that score requests without torch."""

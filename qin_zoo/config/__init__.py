"""Configurations in FuxiCTR's form: found, read safely, and checked before anything of FuxiCTR's sees them."""

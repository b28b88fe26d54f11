"""Searching for parameters: FuxiCTR's grids, and ranges with Optuna; stopped, resumed and shared without loss."""

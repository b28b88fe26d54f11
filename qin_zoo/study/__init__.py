"""Experiments times variations times seeds: what a study file asks for, run where it is missing, and compared."""

"""Speed, measured against plain code that is written from the formulas."""

"""Results of many runs: collected, merged across machines, and set side by side."""

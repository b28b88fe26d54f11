"""Models that need no network, and that a network has to beat: constants, popularity, a line, and trees."""

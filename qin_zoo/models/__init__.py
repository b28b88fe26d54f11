"""What every model shares: the FuxiCTR base class and the one value it hands to a model."""

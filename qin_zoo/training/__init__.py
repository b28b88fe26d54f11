"""From a configuration to a trained model and everything that is kept of it."""

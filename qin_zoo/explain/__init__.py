"""Why a trained model predicts what it does for one row: attention weights and contributions to the logit."""

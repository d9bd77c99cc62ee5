"""Using a trained network."""

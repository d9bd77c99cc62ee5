"""What one model is worth: accuracy, and what it costs to run."""

"""What is learned: loss, targets, metrics, and which of two results is better."""

"""Networks of different families side by side: what they cost, how the cost grows, on this hardware."""

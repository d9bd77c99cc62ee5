"""What a block does to each pixel."""

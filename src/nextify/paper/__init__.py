"""What the paper decides and prints, as data. No torch here."""

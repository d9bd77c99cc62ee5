"""From the paper's settings to the user's images, each change with a reason."""

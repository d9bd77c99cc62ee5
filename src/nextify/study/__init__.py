"""A study: the trials behind a roadmap, where they are kept, and what may be concluded from them."""

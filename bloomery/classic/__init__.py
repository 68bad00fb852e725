"""Small tools that were here before neural networks, complete and fast."""

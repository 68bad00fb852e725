"""Making instructions and preferences to learn from."""

"""People label what a model says, and how far they agree."""

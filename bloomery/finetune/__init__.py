"""Adapting a finished model to a task without losing what it knew."""

"""What people prefer: preference optimisation."""

"""What evaluate.py and experiments.py measure, and how they show it."""

"""Training the embedded generator: `python -m training.train`, `python -m training.score`."""

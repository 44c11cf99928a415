"""The page of demo/app.py."""

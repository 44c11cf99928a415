"""What run.py does with a folder: jobs, retries, records, several processes."""

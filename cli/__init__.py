"""What every command shares: flags, errors, progress."""

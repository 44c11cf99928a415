"""Pictures in and out: reading, writing, face crops, degradations, sheets, animations."""

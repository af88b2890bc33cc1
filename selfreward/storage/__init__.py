"""What a run keeps: its directory, its records, files that exist whole or not at all."""

"""What needs a model: child processes and what they do."""

"""Numbers from records: figures of an iteration, a judge against people, health."""

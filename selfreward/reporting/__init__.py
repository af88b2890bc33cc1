"""What people see of a run: figures, tables, live progress and checks; none writes records."""

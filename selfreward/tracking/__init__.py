"""What a run's trainings and figures become in experiment trackers, sent by a process beside it."""

"""The classic learning-rate schedules."""

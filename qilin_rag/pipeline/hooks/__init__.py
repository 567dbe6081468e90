"""Hooks: what is told of each run that has ended, such as trackers of experiments."""

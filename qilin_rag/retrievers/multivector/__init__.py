"""Retrieve by late interaction: keep a vector for each token of all notes, and compare them all by MaxSim."""

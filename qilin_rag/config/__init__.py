"""Configuration: files of settings, flags, and the settings of a run."""

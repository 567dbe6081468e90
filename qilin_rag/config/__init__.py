"""Configuration: settings from files and flags, and the settings of a run."""

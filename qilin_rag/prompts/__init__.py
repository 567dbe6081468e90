"""Prompts: templates of the working folder or ours, filled in a sandbox."""

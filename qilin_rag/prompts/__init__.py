"""Prompts: templates of the working folder or the package, rendered in a sandbox."""

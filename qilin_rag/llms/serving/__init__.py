"""LLM servers on this machine that we start and stop."""

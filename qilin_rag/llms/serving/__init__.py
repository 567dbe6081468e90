"""Servers of LLMs on this machine, started and ended by us."""

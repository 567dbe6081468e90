"""Reports: what many runs say together."""

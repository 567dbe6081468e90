"""Retrieve by learned sparse vectors from an index on disk."""

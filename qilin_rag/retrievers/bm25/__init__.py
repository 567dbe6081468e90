"""Retrieve with BM25 from an index on disk."""

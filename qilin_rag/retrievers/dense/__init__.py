"""Retrieve with dense vectors: encode all notes, and search among the vectors."""

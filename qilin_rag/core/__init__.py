"""Basic types and tools that every other package may import; it imports no other package of ours."""

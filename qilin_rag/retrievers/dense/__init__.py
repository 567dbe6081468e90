"""Dense retrieval: vectors of all notes, and the search among them."""

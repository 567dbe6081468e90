"""Neural models: fetched, checked, and texts made vectors by them."""

"""The ground: anything may use it, and it uses nothing else of ours."""

"""What anything may use, and what uses nothing of ours."""

"""Which measure agrees with people: correlations with labels, sentinels that must not win, and the table of both."""

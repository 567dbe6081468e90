"""Reports: tables and pages about many runs."""

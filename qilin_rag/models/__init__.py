"""Neural models: downloaded, validated, and used to encode texts."""

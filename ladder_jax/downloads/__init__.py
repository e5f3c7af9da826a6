"""Public data, fetched once and checked by SHA-256."""

"""Text -> documents -> tokens -> packed sequences -> batches that depend on (seed, step) alone."""

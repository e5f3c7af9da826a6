"""Task scaling laws via compute-efficient model ladders (arXiv 2412.04403)."""

"""From text to a forecast of a larger run, on a laptop CPU."""

"""From text to a forecast of a run not yet seen, on a laptop CPU."""

"""From the measurement table to the observations that are fitted."""

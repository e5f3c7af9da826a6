"""Multiple-choice tasks as data."""

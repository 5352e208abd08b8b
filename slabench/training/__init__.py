"""One training loop, schedules, checkpoints, precision and device."""

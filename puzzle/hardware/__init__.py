"""Hardware: what devices this machine has, what they are, and how they are timed."""

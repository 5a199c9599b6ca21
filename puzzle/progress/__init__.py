"""Progress: what long work shows while it runs, and what it announces to those who listen."""

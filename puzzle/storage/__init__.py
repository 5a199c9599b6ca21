"""Storage: content-addressed artifacts, hashing, disks and tensor files."""

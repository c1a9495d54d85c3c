"""One file per method in the tables: what differs, nothing else."""

"""The writers: they make the edits that fixes plan in the user's own file or module, and touch nothing else."""

"""What a benchmark leaves behind: the run directory, its reports, and the view while it runs."""

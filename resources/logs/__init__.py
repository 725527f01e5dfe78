"""The kind `logs`: which log files are kept, for how long, and how many."""

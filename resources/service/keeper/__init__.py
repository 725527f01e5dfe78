"""The keeper: holds the children of one state directory and outlives the supervisor. Standard library only, no Trio."""

"""The command line: the composition root, one file for each group of commands, rendering apart."""

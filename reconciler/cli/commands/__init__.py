"""The commands, one file for each group. Each is a click command around a function that the supervisor can call as well."""

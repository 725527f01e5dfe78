"""Long made-up lives of one host, whose every step is checked against a model."""

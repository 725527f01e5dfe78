"""openclaw.yaml: load with positions, schema, sources, secrets, edit, problems. `load` is the door for everybody else."""

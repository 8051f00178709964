"""Reports: plots, tables and pages that need nothing else."""

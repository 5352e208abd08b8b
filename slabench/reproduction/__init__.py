"""Published tables, row by row: definition, plan, estimate, run, and our numbers beside the printed ones."""

"""Where trials run: processes of this machine, SLURM through submitit, Ray; one interface, jobs as plain data.

`jobs` says what a job is, `work` does one, `running` gives each to one owner, and `local`, `slurm` and `ray` are where they run.
"""

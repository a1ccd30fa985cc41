"""Many jobs -> results, each kept in a file of its own: one process here, or the workers of a Dask cluster.

On a laptop, `run(function, jobs, folder=...)` works through the jobs with a progress bar; `connect("local:4")` starts
four processes of this machine. A cluster is reached by its scheduler's address, `connect("tcp://10.0.0.5:8786")`; its
workers need this package, the weights and a file system on which they see `folder`. On SLURM, dask-jobqueue starts one:

    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(cores=1, memory="8GB", walltime="04:00:00", job_extra_directives=["--gres=gpu:1"])
    cluster.scale(jobs=32)
    print(cluster.scheduler_address)  # make experiments CLUSTER=<this>

A job is flat JSON parameters. Its file is named by the hash of the function's name and version, of the parameters and
of the weights, so a job that is done is never done again, whoever did it. All ways give the same bytes.
"""

from glasslib.sweep.engine import SweepFailed, connect, run
from glasslib.sweep.jobs import job, provenance, stale

__all__ = ["SweepFailed", "connect", "job", "provenance", "run", "stale"]

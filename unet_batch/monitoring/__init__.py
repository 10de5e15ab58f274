"""Who listens to a Job: metrics for Prometheus, a progress display, and the sums both read.

events      what happens, said once by whoever does it
tally       the running sums; `progress` draws them, `snapshot` keeps them with the data
metrics     one registry of a Job, served or written
series      work_metrics  quality_metrics  training_metrics  causes    what is in it
"""

"""Who listens to a Job: metrics for Prometheus, a progress display, and the sums both read."""

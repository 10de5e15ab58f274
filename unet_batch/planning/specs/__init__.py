"""The Specs of all jobs, one module each; `jobs/` holds a ready YAML file for every one."""

"""RayJobs on Kubernetes: made from the chart's template, watched to their end, cleaned up.

rayjob      what a RayJob is made of and what its status says: pure
watching    what is to be concluded from what was seen, and when: pure
client      the API server, its errors translated once
"""

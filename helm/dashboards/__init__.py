"""The dashboards of the chart, built by code: `python -m dashboards.build` in the folder helm.

vocabulary     how a panel, a query and a variable look: said once
archive_jobs   quality   training   cluster     a dashboard each
build          writes unet-batch/dashboards/*.json; a test holds them to be equal
queries        what the committed dashboards ask Prometheus, ready to be asked
draw           pictures of the answers, for a look at a dashboard without Grafana
"""

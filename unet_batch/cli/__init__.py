"""The `unet-batch` command: parse, call one workflow, print.

app         the commands
running     Ray, progress and metrics around a workflow
printing    what a workflow returned, as tables or JSON
"""

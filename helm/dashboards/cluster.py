"""Cluster: GPUs, CPUs, memory, object store, spilling and restarts, from Ray's own metrics."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.vocabulary import Built, board, lines, number

CLUSTER = 'ray_io_cluster=~"$cluster"'
FULL = [(0.85, "orange"), (0.95, "red")]


def cluster() -> Dashboard:
    """The dashboard of the machines under the jobs."""
    made = board(
        "Cluster",
        "unet-batch-cluster",
        "Ray's nodes: what they have, what is used, what was lost.",
    )
    for panel in (*_present(), *_devices(), *_object_store(), *_life()):
        made.with_panel(panel)
    return made


def _store_share() -> str:
    used = f"ray_object_store_used_memory{{{CLUSTER}}}"
    return f"{used} / ({used} + ray_object_store_available_memory{{{CLUSTER}}})"


def _present() -> list[Built]:
    return [
        number(
            "Nodes",
            "Ray nodes that report, heads included.",
            "short",
            (f"count(ray_node_cpu_count{{{CLUSTER}}})", "nodes"),
            steps=[(0, "red"), (1, "green")],
            width=6,
        ),
        number(
            "GPUs",
            "GPUs that Ray sees.",
            "short",
            (f"sum(ray_node_gpus_available{{{CLUSTER}}})", "GPUs"),
            steps=[(0, "orange"), (1, "green")],
            width=6,
        ),
        number(
            "Fullest object store",
            "Share of the object store in use on the fullest node; the alert fires at 85 %.",
            "percentunit",
            (f"max({_store_share()})", "fullest"),
            steps=FULL,
            width=6,
        ),
        number(
            "Actors restarting",
            "Actors, Replicas among them, that Ray brings back at this moment.",
            "short",
            (f'sum(ray_actors{{{CLUSTER},State="RESTARTING"}}) or vector(0)', "restarting"),
            steps=[(1, "orange"), (5, "red")],
            width=6,
        ),
    ]


def _devices() -> list[Built]:
    used, free = f"ray_node_gram_used{{{CLUSTER}}}", f"ray_node_gram_available{{{CLUSTER}}}"
    return [
        lines(
            "GPU",
            "Use of each GPU. A job that is well fed keeps them above 90 %.",
            "percent",
            (f"ray_node_gpus_utilization{{{CLUSTER}}}", "{{ip}} GPU {{GpuIndex}}"),
            width=6,
        ),
        lines(
            "GPU memory",
            "Share of each GPU's memory in use.",
            "percentunit",
            (f"{used} / ({used} + {free})", "{{ip}} GPU {{GpuIndex}}"),
            steps=FULL,
            width=6,
            maximum=1,
        ),
        lines(
            "CPU",
            "Use of each node's CPUs.",
            "percent",
            (f"ray_node_cpu_utilization{{{CLUSTER}}}", "{{ip}}"),
            steps=[(95, "orange")],
            width=6,
        ),
        lines(
            "Memory",
            "Share of each node's memory in use; Ray kills workers at 95 %.",
            "percentunit",
            (f"ray_node_mem_used{{{CLUSTER}}} / ray_node_mem_total{{{CLUSTER}}}", "{{ip}}"),
            steps=FULL,
            width=6,
            maximum=1,
        ),
    ]


def _object_store() -> list[Built]:
    spilled = f'ray_spill_manager_objects_bytes{{{CLUSTER},State=~"Spilled|Restored"}}'
    return [
        lines(
            "Object store",
            "Share of each node's object store in use: Blocks and Seams on their way.",
            "percentunit",
            (_store_share(), "{{NodeAddress}}"),
            steps=FULL,
            maximum=1,
        ),
        lines(
            "Spilled to disk",
            "What did not fit the object store. Steady spilling means too large a window.",
            "bytes",
            (f"sum by (State) ({spilled})", "{{State}}"),
            steps=[(2**30, "orange")],
        ),
        lines(
            "Disk",
            "Share of each node's disk in use, where Ray logs and spills.",
            "percent",
            (f"ray_node_disk_utilization_percentage{{{CLUSTER}}}", "{{ip}}"),
            steps=[(85, "orange"), (95, "red")],
        ),
    ]


def _life() -> list[Built]:
    return [
        lines(
            "Actors",
            "Actors by state; RESTARTING and DEAD ones that pile up are Replicas that die.",
            "short",
            (f"sum by (State) (ray_actors{{{CLUSTER}}})", "{{State}}"),
            stacked=True,
        ),
        lines(
            "Restarts of nodes",
            "How often the Ray agent of a node began anew in the last hour.",
            "short",
            (
                f"sum by (instance) (changes(process_start_time_seconds{{{CLUSTER}}}[1h]))",
                "{{instance}}",
            ),
            steps=[(1, "orange"), (3, "red")],
        ),
        lines(
            "Tasks",
            "Ray tasks by state: reading, stitching, writing.",
            "short",
            (f"sum by (State) (ray_tasks{{{CLUSTER}}})", "{{State}}"),
            stacked=True,
        ),
    ]

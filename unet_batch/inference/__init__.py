"""From planned Blocks to labels: the device part (no Ray) and the Ray actors that host it.

engine      a network's forward pass, batch by batch
presets     Engines made of Engines: mirrored tiles, ensembles
slab        rolling weighted logit sums of one Sweep
head        a Head reads finished sums out: labels, probabilities
predictor   Blocks in, finished labels and Seam sums out; knows neither Ray nor Zarr
---------   from here on, Ray
reading     Blocks as lazy Dask work on Ray
replica     the actor that holds a Predictor
stitching   adds the Seam sums of several Sweeps; writes and publishes regions
driver      carries out what the Schedule decides
workforce   who does what the driver starts: Ray, or a simulation
keeper      as many Replicas as there is work for; held: references to what is under way
cluster     starts or joins Ray
"""

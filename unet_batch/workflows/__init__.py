"""One module a job, one public function each: a Spec in, a summary out, events on the way.

They assume that Ray runs in this process, and print nothing.
"""

"""The scoring API: ``posttrain serve``, rewards over HTTP.

A request's items go through ``app`` (routes and wire forms) into the queue of a ``ServedReward``, are merged with those
of other requests into batches, and are scored in a process of their own.
"""

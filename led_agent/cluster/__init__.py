"""Decoders and verifiers on other processes and machines, through Ray. The only package that imports ray.

Requests are complete, immutable and named, and a branch is a function of its request: so whatever dies, what it was
working on is sent again, and the first result counts.

- ``leases``: who works on what, and who is to work on what next. Knows neither Ray nor time.
- ``dispatcher``: the thread in which that is decided, behind the ``Decoder`` protocol of the search.
- ``actor``: a decoder in a process of its own. ``crew``: the actors of one search, started, watched and replaced.
- ``verifiers``: the search's verifiers in processes on the nodes, each of them a ``verifier_actor``.
- ``connect``: reaching a cluster. ``plan``: how many decoders, where. ``decoder``: all of it as the search's decoder.
- ``crossing``: errors and users' code between processes. ``meters``, ``watch``: what can be seen from outside.
"""

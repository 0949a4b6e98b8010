"""Studies: what exploration is worth on a model, and what a first verified answer costs, by one command each.

A study draws many branches of each problem in every way that is compared (an ``Arm``), keeps a row a problem and arm,
and derives all its figures from the rows. It knows evaluations' statistics, and trees through searches only.
"""

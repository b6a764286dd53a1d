"""The instruments: FLOPs, time, distances, frequencies, bits, probes, obedience, costs.

Begin with `complexity`, which counts what a step costs, and `distances.evaluate`, which says how good pictures are. The
others can be read when a chapter needs them.
"""

"""A grid of three formats and two seeds: small enough to be written by hand."""

SPACE = """
name: small
trial: {corpus: {source: {name: restaurant}}}
search:
  quantization.quantizer: {choice: [none, "fixed:Q0i4f", "fixed:Q4i0f"]}
  seed: {choice: [0, 1]}
objectives: {nll_bound: minimize, size_bytes: minimize}
sampler: {name: grid}
rungs: [30, 60]
"""

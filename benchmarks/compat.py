"""What the benchmarks compare with that a library has under a private name alone. Read in optuna 5.0.0;
tests/search/pareto/test_geometry.py says what it has to do."""

from optuna._hypervolume import compute_hypervolume

__all__ = ["compute_hypervolume"]

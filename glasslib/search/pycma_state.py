"""The state of a pycma strategy as arrays and JSON values, taken and put back without pickle."""

import numpy as np

PARTS = ("sm", "sigma_vec", "adapt_sigma", "fit", "best", "_stoptolxstagnation", "gp")  # objects that hold state
# of the strategy itself: what it works out again from `sm`, and what only the generation now over needed
PASSING = frozenset({"B", "C", "D", "dC", "ary", "pop", "pop_sorted", "_tell2_args"})


def take(strategy) -> dict:
    """Copy the state of a cma.CMAEvolutionStrategy between `tell` and `ask`.

    All that is data (numbers, arrays, lists of them) in it and in PARTS; what its settings give anew is left out.
    """
    kept = {name: value for name, value in vars(strategy).items() if name not in PASSING}
    parts = {"": kept} | {part: vars(getattr(strategy, part)) for part in PARTS}
    return {
        part: {name: _packed(value) for name, value in attributes.items() if _is_data(value)}
        for part, attributes in parts.items()
    }


def put(strategy, state: dict) -> None:
    """Bring a new strategy of the same settings to `state`, in time and memory of the state alone."""
    import cma

    for part, attributes in state.items():
        owner = getattr(strategy, part) if part else strategy
        for name, value in attributes.items():
            setattr(owner, name, _unpacked(value))
    strategy._updateBDfromSM(strategy.sm)
    strategy.timer = cma.utilities.utils.ElapsedWCTime()
    if not strategy.gp.isidentity:  # after pycma's `alleviate_conditioning`
        strategy.gp.tf_pheno, strategy.gp.tf_geno = strategy._tfp, strategy._tfg


def _is_data(value) -> bool:
    if type(value) is dict:  # an empty one is a cache that has not been asked yet
        return bool(value) and all(type(key) is str and _is_data(item) for key, item in value.items())
    if type(value) is list:
        return all(_is_data(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, np.generic, np.ndarray))


def _packed(value):
    """NumPy's numbers keep their type, and arrays their order in memory: both decide last bits."""
    if isinstance(value, np.ndarray):
        return np.array(value, order="K")
    if isinstance(value, np.generic):
        return {"number": np.array(value)}
    if isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
        return {"rows": np.array(value)}
    if isinstance(value, list) and value and all(type(item) is np.float64 for item in value):
        return {"numbers": np.array(value)}
    if isinstance(value, dict):
        return {"dict": {key: _packed(item) for key, item in value.items()}}
    return [_packed(item) for item in value] if isinstance(value, list) else value


def _unpacked(value):
    if isinstance(value, dict):
        ((kind, held),) = value.items()
        if kind == "dict":
            return {key: _unpacked(item) for key, item in held.items()}
        return held[()] if kind == "number" else list(held)
    if type(value) is list:
        return [_unpacked(item) for item in value]
    return value.copy(order="K") if isinstance(value, np.ndarray) else value

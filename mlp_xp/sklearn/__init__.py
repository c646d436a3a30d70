"""scikit-learn's multilayer perceptrons on any device: change the import, keep the code.

`MLPClassifier` and `MLPRegressor` take the parameters of scikit-learn's estimators with the same meaning and defaults,
give the same model for the same ``random_state``, and add further options. `BatchedSearchCV`, `EnsembleClassifier`
and `EnsembleRegressor` train many estimators at once. Install with ``pip install 'mlp-xp[sklearn]'``.
"""

try:
    import sklearn.utils._repr_html as _required  # noqa: F401  the newest part of scikit-learn that is needed
except ImportError as error:
    raise ImportError(
        f"mlp_xp.sklearn needs scikit-learn 1.7 or newer ({error}): pip install 'mlp-xp[sklearn]'"
    ) from error

from mlp_xp.sklearn.ensemble import EnsembleClassifier, EnsembleRegressor
from mlp_xp.sklearn.estimators import MLPClassifier, MLPRegressor
from mlp_xp.sklearn.search import BatchedSearchCV

__all__ = ["BatchedSearchCV", "EnsembleClassifier", "EnsembleRegressor", "MLPClassifier", "MLPRegressor"]

"""What `pyproject.toml` leaves to extras, and saying so where one is missing.

The base (audit, engine, ONNX) is NumPy, onnx, pydantic and rich; all else of the package needs the extra `train`.
"""

import sys
from importlib.util import find_spec

MODULES = {
    "train": (
        "filelock", "hydra", "matplotlib", "onnxruntime", "pandas", "PIL", "platformdirs",
        "pycocotools", "pytorch_lightning", "safetensors", "scipy", "sklearn", "tabulate", "timm", "torch",
        "torchmetrics", "torchvision", "tqdm", "wandb", "yaml",
    ),
}  # fmt: skip
"""The modules of an extra's packages, whose names are others."""


def require(extra: str) -> None:
    """End the process with one line on standard error and exit status 1 where an extra is not installed as a whole."""
    if absent := [name for name in MODULES[extra] if find_spec(name) is None]:
        sys.exit(
            f"error: found no {', '.join(absent)}, expected the extra {extra!r} of this package; "
            f'install it in the checkout: pip install ".[{extra}]"'
        )

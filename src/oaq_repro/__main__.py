"""`python -m oaq_repro`: one run, or a sweep with `-m`. Heavy packages are imported only when a run starts."""

import sys

import hydra
from omegaconf import DictConfig

from oaq_repro.configuration import config_folder

failures: list[str] = []


@hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")
def main(config: DictConfig) -> float | None:
    """Run one experiment; returns its headline metric (for Hydra's sweepers), None when it failed."""
    from oaq_repro.errors import InputError
    from oaq_repro.experiment import headline, run

    try:
        return headline(run(config))
    except (InputError, OSError) as error:
        failures.append(str(error))
        print(f"error: {error}", file=sys.stderr)
        return None


def entry_point() -> None:
    """Console entry: exit status 1 when any run failed."""
    main()
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    entry_point()

"""What is known of each network: one JSON file, written when it is known."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic


class Timing(BaseModel):
    """Medians in ms of one image on one thread, in turn with each other; what they depend on."""

    model_config = ConfigDict(extra="forbid")
    milliseconds: dict[str, float]
    onnxruntime_form: str
    rounds: int
    machine: dict


class NetworkRecord(BaseModel):
    """parameters: of the float network. error: why it has no integer form, None where it has one.

    macs: products of one image; operators: nodes of the integer graph by kind. equal: for everything that runs the
    integers whether its outputs were the simulation's to the last bit. packages: versions then.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    library: str
    input_shape: tuple[int, int, int]
    parameters: int
    error: str | None = None
    macs: int = 0
    operators: dict[str, int] = {}
    equal: dict[str, bool] = {}
    kernels: str = ""
    packages: dict[str, str] = {}
    timing: Timing | None = None

    @property
    def exact(self) -> bool:
        """Whether it lowers, and all are equal."""
        return self.error is None and bool(self.equal) and all(self.equal.values())


def path_of(folder: Path, name: str) -> Path:
    """The file of a network's record."""
    return folder / f"{name}.json"


def save(record: NetworkRecord, folder: Path) -> Path:
    """Write a record."""
    return write_atomic(path_of(folder, record.name), record.model_dump_json(indent=2) + "\n")


def load(folder: Path, name: str) -> NetworkRecord | None:
    """A record; None where there is none yet. InputError names a file that is none."""
    path = path_of(folder, name)
    try:
        return NetworkRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: found {str(error).splitlines()[0]}, expected a record of a network") from error

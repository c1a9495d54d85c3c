"""Types of settings: bounds, marks and readers that stand beside a field of a dataclass or of a constructor.

They are all that checks a field: `settings.schema` reads them. Plain annotations without pydantic, so that every room
may use them; pydantic asks the classes here how they act (`__get_pydantic_core_schema__`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt, MinLen


@dataclass(frozen=True)
class Mark:
    """How a field counts in what identifies a run. `settings.identity` passes `{mark: function}` as pydantic's context;
    each function is given the value and returns what stands in its place."""

    meaning: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def written(value: Any, plain: Callable[[Any], Any], info: Any) -> Any:
            instead = (info.context or {}).get(self)
            return plain(value) if instead is None else instead(plain(value))

        schema = handler(source)
        inner = {key: value for key, value in schema.items() if key != "serialization"}
        schema["serialization"] = core_schema.wrap_serializer_function_ser_schema(written, info_arg=True, schema=inner)
        return schema


NO_SCIENCE = Mark("where, how fast, how loudly or why: does not count")
BY_CONTENT = Mark("a file: the same content elsewhere is the same, other content is not")
IN_ORDER = Mark("a mapping of which the order counts, and the names do not")


@dataclass(frozen=True)
class ReadBy:
    """What a configuration says goes through `read` before it is checked; a short form may stand for the whole."""

    read: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.read, handler(source))


LARGEST = 10**9

Count = Annotated[int, Ge(1), Le(LARGEST)]
Size = Annotated[int, Ge(1), Le(1 << 14)]
"""A side in pixels, a stride, a number of channels."""
Whole = Annotated[int, Ge(0), Le(LARGEST)]
Seed = Annotated[int, Ge(0), Lt(1 << 32)]
Threads = Annotated[int, Ge(1), Le(1024)]
Workers = Annotated[int, Ge(0), Le(1024)]
Bits = Annotated[int, Ge(2), Le(8)]
Positive = Annotated[float, Gt(0), Le(1e9)]
NonNegative = Annotated[float, Ge(0), Le(1e9)]
Finite = Annotated[float, Ge(-1e9), Le(1e9)]
Width = Annotated[float, Ge(1 / 64), Le(64)]
"""A factor of a network's channels."""
Fraction = Annotated[float, Ge(0), Le(1)]
OpenFraction = Annotated[float, Ge(0), Lt(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]
InnerFraction = Annotated[float, Gt(0), Lt(1)]
Percentile = Annotated[float, Gt(50), Le(100)]
"""Of a two-sided range."""
Margin = Annotated[float, Ge(1), Le(1000)]
"""A factor by which a limit is undercut."""
Text = Annotated[str, MinLen(1)]
Checkpoint = Annotated[Text | None, BY_CONTENT]

"""What `wsmanager.handlers.payloads` makes of data, and what it says of data that does not fit."""

import datetime
import enum
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypedDict

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.errors import ConfigurationError, InvalidPayload
from wsmanager.handlers.payloads import payload_converter

from ...profiles import examples
from .samples import Chat, Order, Point, shown

if TYPE_CHECKING:
    from wsmanager.protocols import Principal as KnownToCheckersOnly


class Options(TypedDict):
    volume: int


class Colour(enum.Enum):
    RED = "red"


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Basket(msgspec.Struct):
    orders: list[Order] = []
    first: Order | None = None


@pydantic.dataclasses.dataclass
class CheckedByPydantic:
    name: Annotated[str, pydantic.Field(max_length=2)]


def convert(annotation: Any, value: Any) -> Any:
    converter = payload_converter(annotation)
    assert converter is not None
    return converter(value)


def misfit(annotation: Any, value: Any) -> str:
    with pytest.raises(InvalidPayload) as caught:
        convert(annotation, value)
    assert caught.value.code == "invalid_payload"
    return caught.value.message


@pytest.mark.parametrize("annotation", [Any, object])
def test_an_annotation_that_takes_anything_needs_no_conversion(annotation: Any) -> None:
    assert payload_converter(annotation) is None


@pytest.mark.parametrize(
    ("annotation", "data", "expected"),
    [
        (Chat, {"room": "a"}, Chat("a")),
        (Point, {"x": 1}, Point(1)),
        (Options, {"volume": 3}, {"volume": 3}),
        (Order, {"item": "tea"}, Order(item="tea")),
        (dict, {"any": 1}, {"any": 1}),
        (dict[str, object], {"any": [1]}, {"any": [1]}),
        (dict[int, str], {"7": "a"}, {7: "a"}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (str, "a", "a"),
        (float, 1, 1.0),
        (list[int], [1], [1]),
        (list[Any], ["a", 1], ["a", 1]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (None, None, None),
        (Optional[Chat], None, None),  # noqa: UP045 (people write both)
        (Chat | None, {"room": "a"}, Chat("a")),
        (Cat | Dog, {"type": "dog", "name": "a"}, Dog("a")),
        (Colour, "red", Colour.RED),
        (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
        (uuid.UUID, "0" * 32, uuid.UUID(int=0)),
        (list[Order], [{"item": "tea"}], [Order(item="tea")]),
        (Basket, {"first": {"item": "tea"}}, Basket(first=Order(item="tea"))),
        (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
    ],
    ids=shown,
)
def test_a_payload_becomes_what_the_handler_asks_for(annotation: Any, data: Any, expected: Any) -> None:
    converted = convert(annotation, data)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "data", "text"),
    [
        (dict, [], "data: Expected `object`, got `array`"),
        (Chat, None, "data: Expected `object`, got `null`"),
        (Chat, {}, "data: Object missing required field `room`"),
        (Chat, {"room": "a", "n": "7"}, "data.n: Expected `int`, got `str`"),
        (Chat, {"room": "a", "zzz": 1}, "data: Object contains unknown field"),
        (list[Chat], [{"room": "a", "zzz": 1}], "data[0]: Object contains unknown field"),
        (dict[int, int], {"zzz": 1}, "data: Expected `int`, got `str`"),
        (dict[str, int], {"zzz": "zzz"}, "data[...]: Expected `int`, got `str`"),
        (Colour, "zzz", "data: Invalid enum value"),
        (list[Literal["a"]], ["zzz` - at `$.zzz"], "data[0]: Invalid enum value"),
        (Cat | Dog, {"type": "zzz"}, "data.type: Invalid value"),
        (Annotated[str, msgspec.Meta(max_length=2)], "zzz", "data: Expected `str` of length <= 2"),
        (Point, {"x": -7}, "data: Invalid value"),
        (list[Point], [{"x": -7}], "data[0]: Invalid value"),
        (Order, "zzz", "data: Input should be a valid dictionary"),
        (Order, {}, "data.item: Field required"),
        (Order, {"item": "z"}, "data.item: String should have at least 2 characters"),
        (Order, {"item": "tea", "count": "zzz"}, "data.count: Invalid value (int_parsing)"),
        (Order, {"item": "tea", "count": 7}, "data.count: Invalid value (value_error)"),
        (Order, {"item": "tea", "colour": "zzz"}, "data.colour: Input should be 'red' or 'blue'"),
        (Order, {"item": "tea", "prices": {"z z": "zzz"}}, "data.prices[...]: Invalid value (int_parsing)"),
        (Order, {"item": "tea", "z" * 65: 1}, "data[...]: Extra inputs are not permitted"),
        (Basket, {"orders": [{"item": 1}]}, "data.orders[0].item: Input should be a valid string"),
    ],
)
def test_a_misfit_names_the_place_and_what_was_expected(annotation: Any, data: Any, text: str) -> None:
    assert misfit(annotation, data) == text


def test_a_misfit_of_a_list_inside_a_model_names_the_index() -> None:
    class Scores(pydantic.BaseModel):
        points: list[int]

    assert misfit(Scores, {"points": [1, None]}) == "data.points[1]: Input should be a valid integer"


def test_a_model_by_shape_may_raise_errors_that_are_not_of_pydantic() -> None:
    class Shaped:
        @classmethod
        def model_validate(cls, value: object) -> "Shaped":
            raise ValueError(f"inner thoughts about {value}")

    assert misfit(Shaped, 7) == "data: Invalid value"


SECRET = "s3cr3t"
_marked = st.text(max_size=8).map(lambda text: text + SECRET)
_values = st.recursive(
    _marked | st.integers(-9, 9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["room", "type", "x", "item", "count", "colour"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@examples(30)
@given(st.sampled_from([Chat, Point, Order, Basket, Colour, Cat | Dog, list[Order], uuid.UUID]), _values)
def test_no_misfit_ever_quotes_the_value(annotation: Any, data: Any) -> None:
    converter = payload_converter(annotation)
    assert converter is not None
    told = ""
    try:
        converter(data)
    except InvalidPayload as error:
        told = error.message
    assert SECRET not in told


class Plain:
    pass


class HasUnknown(msgspec.Struct):
    principal: "KnownToCheckersOnly"


class HasPlain(msgspec.Struct):
    inner: "list[HasPlain] | None"
    plain: dict[str, Plain]


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (Plain, "Plain"),
        (HasPlain, "Plain"),
        (HasUnknown, "HasUnknown"),
        (list[CheckedByPydantic], "CheckedByPydantic"),
        (msgspec.Raw, "Raw"),
        (Callable[[], int], "Callable"),
        (Order | int, "Order"),
        (7, "7"),
    ],
    ids=shown,
)
def test_an_annotation_that_data_cannot_become_is_refused_at_once(annotation: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{named}.* is no payload"):
        payload_converter(annotation)

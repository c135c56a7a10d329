import math

import pytest

from gpt_core.errors import InputError
from gpt_core.recipe import Evaluate
from gpt_core.tasks.request import parameters_of, read_rows_of_columns, read_writing


def test_rows_have_the_columns_asked_for_and_null_for_what_a_table_lacks() -> None:
    columns = {"second": ["b", math.nan], "other": [1, 2], "first": ["a", "c"]}
    assert read_rows_of_columns(columns, ("first", "second")) == [
        {"first": "a", "second": "b"},
        {"first": "c", "second": None},
    ]


def test_one_row_of_lists_is_columns_but_a_list_of_choices_is_a_value() -> None:
    rows = [{"first": "a", "second": "b"}, {"first": "c", "second": "d"}]
    assert read_rows_of_columns({"first": [["a", "c"]], "second": [["b", "d"]]}, ("first", "second")) == rows
    one = [{"context": "a", "choices": ["b", "c"]}]
    assert read_rows_of_columns({"context": ["a"], "choices": [["b", "c"]]}, ("context", "choices")) == one


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"first": ["a"], "body": ["b"]}, "no column 'second' among 'first', 'body'; give 'first', 'second'"),
        ({"first": [["a", "b"]], "second": [["c"]]}, "columns of 2 and 1 rows: 'first', 'second'; give all the same"),
        ({"first": [], "second": []}, "no row; give one or more with 'first', 'second'"),
    ],
)
def test_what_are_no_rows_is_refused_with_the_columns(columns: dict[str, list[object]], words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_rows_of_columns(columns, ("first", "second"))
    assert str(caught.value) == words


def test_what_a_request_does_not_say_is_as_the_model_was_registered() -> None:
    registered = Evaluate(sample_tokens=9, temperature=0.3, top_k=5, top_p=0.9, seed=7, stop=("\n",))
    defaults = parameters_of(registered)
    assert read_writing({}, defaults) == registered
    asked = read_writing({"seed": 8, "temperature": None}, defaults)
    assert (asked.seed, asked.temperature, asked.sample_tokens) == (8, 0.3, 9)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tokens": 3}, "no parameter 'tokens'; there are max_new_tokens, temperature, top_k, top_p, seed, stop"),
        ({"max_new_tokens": 0}, "parameter max_new_tokens is 0: input should be greater than or equal to 1"),
        ({"temperature": math.inf}, "parameter temperature is inf: input should be a finite number"),
        ({"top_p": 1.5}, "parameter top_p is 1.5: input should be less than or equal to 1"),
    ],
)
def test_a_parameter_that_is_none_or_out_of_bounds_is_refused(params: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_writing(params, {})
    assert str(caught.value) == words

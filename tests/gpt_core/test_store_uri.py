"""What of a URI may be shown, and which may be MLflow's store."""

import pytest

from gpt_core.errors import RecipeError
from gpt_core.recipe_file import parse_recipe
from gpt_core.store_uri import tracking_uri_problem, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host:5000/x", "http://host:5000/x"),
        ("at https://me:pass@host, twice https://token@host", "at https://***@host, twice https://***@host"),
        ("postgresql+psycopg://me:p/@ss@host/db", "postgresql+psycopg://***@host/db"),
        ("'mysql://host/db?user=me&password=x' fails", "'mysql://host/db?***' fails"),
        ("postgresql:///db?password=x", "postgresql:///db?***"),
        ("https://bucket/key?X-Amz-Signature=ab", "https://bucket/key?***"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("mail me@work, or read http://host", "mail me@work, or read http://host"),
    ],
)
def test_credentials_and_options_of_a_uri_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


SERVER, DATABASE, NEITHER = "MLFLOW_TRACKING_USERNAME and", "put the whole URI into MLFLOW_TRACKING_URI", "is no URI"


@pytest.mark.parametrize(
    ("uri", "in_recipe", "in_environment"),
    [
        ("http://host:5000", None, None),
        ("sqlite:///a folder/mlflow.db", None, None),
        ("postgresql://me@host/db", None, None),
        ("https://me:planted@host", SERVER, SERVER),
        ("https://planted@host", SERVER, SERVER),
        ("https://host/?token=planted", SERVER, SERVER),
        ("postgresql://me:planted@host/db", DATABASE, None),
        ("postgresql:///db?password=planted", DATABASE, None),
        ("postgresql://me:planted secret@host/db", NEITHER, NEITHER),
        ("me:planted@host:5000", NEITHER, NEITHER),
    ],
)
def test_a_store_with_a_secret_is_refused_where_it_would_be_shown(
    uri: str, in_recipe: str | None, in_environment: str | None
) -> None:
    for place, expected in ((True, in_recipe), (False, in_environment)):
        problem = tracking_uri_problem(uri, in_recipe=place)
        assert (problem or "").find(expected or "") >= 0
        assert (problem is None) == (expected is None)
        assert "planted" not in (problem or "")


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"tracking": {"uri": "https://me:planted@host"}}, "tracking.uri: "),
        ({"cluster": {"ray": {"address": "ray://me:planted@host:10001"}}}, "cluster.ray.address: "),
        ({"cluster": {"ray": {"jobs_address": "http://host:8265?token=planted"}}}, "cluster.ray.jobs_address: "),
    ],
)
def test_a_recipe_with_a_secret_is_refused_and_the_refusal_holds_none(
    sections: dict[str, dict[str, object]], field: str
) -> None:
    with pytest.raises(RecipeError) as refusal:
        parse_recipe({"name": "a", "corpus": {"inputs": [{"path": "a.txt"}]}, **sections}, origin="r")  # type: ignore[dict-item]
    assert field in str(refusal.value)
    assert "planted" not in str(refusal.value)

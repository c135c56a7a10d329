"""What a cluster lacks for a recipe is known before anything starts, with the way out."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes_api import KubernetesApi
from made_workspace import write_project

from gpt_core.errors import SetupError
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from pipelines.checks import check_before_start
from pipelines.doctor import examine
from pipelines.kubernetes import check_kubernetes
from pipelines.plan import make_plan, resolve_paths

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
LAUNCHERS = [f"cluster.{name}.launcher=kubernetes" for name in ("process", "ray", "train")]
NAMED = ["cluster.kubernetes.image=it", "cluster.kubernetes.claim=corpus", "cluster.kubernetes.secret=mlflow"]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    served = KubernetesApi(tmp_path_factory.mktemp("kubernetes"))
    for resource, name in (
        ("persistentvolumeclaims", "corpus"),
        ("secrets", "mlflow"),
        ("clustertrainingruntimes", "torch-distributed"),
    ):
        served.create(resource, {"metadata": {"name": name}})
    yield served
    served.close()


@pytest.fixture
def recipe(tmp_path: Path, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    for name, value in api.environment.items():
        monkeypatch.setenv(name, value)
    return resolve_paths(load_recipe(write_project(tmp_path), [*LAUNCHERS, *NAMED]))


def changed(recipe: Recipe, *launchers: str, **kubernetes: object) -> Recipe:
    """Other settings, and of the launchers only these."""
    tree = json.loads(recipe.model_dump_json())
    tree["cluster"]["kubernetes"] |= kubernetes
    for name in {"process", "ray", "train"}.difference(launchers):
        del tree["cluster"][name]["launcher"]
    return Recipe.model_validate(tree)


def test_a_cluster_that_has_all_is_well_and_doctor_says_for_which_stages(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.doctor._check_tracking", lambda _: None)
    (finding,) = [one for one in examine(recipe) if one.subject == "kubernetes"]
    assert (finding.well, finding.text) == (True, "takes tokenizer, evaluate, shards, pretrain, finetune")


def test_what_is_missing_is_named_by_its_field(recipe: Recipe, api: KubernetesApi) -> None:
    for field, message in (
        ("claim", 'claim=other: persistentvolumeclaims "other" not found .namespace default.; make it, ReadWriteMany'),
        ("secret", "secret=other: .*; kubectl create secret generic other --from-env-file=FILE makes it"),
        ("runtime", "runtime=other: .*; kubectl get clustertrainingruntimes lists what is there"),
        ("service_account", "service_account=other: .*; make it, or leave it out"),
    ):
        with pytest.raises(SetupError, match=rf"cluster\.kubernetes\.{message}"):
            check_kubernetes(changed(recipe, "train" if field == "runtime" else "process", **{field: "other"}))
    api.forbidden.add("secrets")
    check_kubernetes(changed(recipe, "process", secret="other"))  # noqa: S106  who may not look at it can use it all the same
    api.forbidden.clear()


def test_a_right_and_a_kind_that_are_missing_are_named(
    recipe: Recipe, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.forbidden.add("rayjobs")
    with pytest.raises(SetupError, match=r"namespace=default: you may not create rayjobs\.ray\.io; let its admin"):
        check_kubernetes(changed(recipe, "ray"))
    api.forbidden.clear()
    monkeypatch.delitem(api.groups, "ray.io/v1")
    with pytest.raises(SetupError, match=r"knows no RayJob of ray\.io/v1; install KubeRay 1\.5\.1 or newer"):
        check_before_start(recipe, make_plan(recipe))
    check_kubernetes(changed(recipe, "process"))  # what nobody needs may be missing


def test_a_file_that_no_pod_sees_is_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(
        SetupError, match=rf"finetune\.train: {tmp_path}/train\.jsonl is not on the claim, which stands"
    ):
        check_kubernetes(changed(recipe, "process", mount=str(tmp_path / "workspace")))


def test_a_cluster_that_does_not_answer_or_lets_nobody_in_is_named(
    recipe: Recipe, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    for before, after, why in (
        (api.token, "wrong", "You must be logged in"),
        (f":{api.server.server_port}", ":9", "refused"),
        ('"current-context": "test"', '"current-context": "another"', "context was not found"),
    ):
        path.write_text(api.kubeconfig.read_text().replace(before, after))
        with pytest.raises(
            SetupError, match=rf"cluster\.kubernetes\.context=None: the cluster does not answer .*{why}"
        ):
            check_kubernetes(recipe)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="kubectl is not installed; a launcher `kubernetes` needs it"):
        check_kubernetes(recipe)

"""Machines that cannot meet are told before anything starts, with the way out."""

import socket
from pathlib import Path

import pytest
from rich.console import Console

from gpt_core.errors import GptmillError, InputError, SetupError, UserError
from gpt_core.recipe_file import load_recipe
from pipelines.doctor import examine
from pipelines.join import join_recipe
from pipelines.machines import check_machines
from pipelines.plan import resolve_paths

ROOT = Path(__file__).parents[2]


def demo(*overrides: str):
    settings = [f"cluster.train.{override}" for override in overrides]
    return resolve_paths(load_recipe(ROOT / "recipes/demo.yaml", settings))


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def several(rendezvous: str, *overrides: str):
    return demo("processes=1", "nodes=2", f"rendezvous={rendezvous}", *overrides)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_rendezvous_on_the_loopback_is_refused(host: str) -> None:
    with pytest.raises(UserError, match=rf"rendezvous: {host}:29400: {host} is 127\.0\.0\.1 on this machine, which no"):
        check_machines(several(f"{host}:29400"))


def test_a_rendezvous_that_does_not_resolve_is_refused() -> None:
    with pytest.raises(
        SetupError, match=r"rendezvous: nobody\.invalid:29400: .*; give a name or address that all reach"
    ):
        check_machines(several("nobody.invalid:29400"))


def test_every_number_of_machines_that_may_go_on_divides_the_batch() -> None:
    recipe = demo("processes=1", "nodes=4", "min_nodes=2", "max_restarts=3", "rendezvous=192.0.2.1:29400")
    message = (
        r"pretrain\.batch_sequences=\d+ is no multiple of the 3 x 1 ranks that cluster\.train\.min_nodes=2 lets go on"
    )
    with pytest.raises(UserError, match=message):
        check_machines(recipe)


def test_fewer_machines_need_restarts() -> None:
    recipe = demo("processes=1", "nodes=2", "min_nodes=1", "rendezvous=192.0.2.1:29400")
    with pytest.raises(UserError, match=r"min_nodes=1: fewer machines go on by starting again; set .*max_restarts"):
        check_machines(recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=1\nb slots=2\n", r"hosts:2: b has 2 slots, not cluster\.train\.processes=1; make them equal"),
        ("# two\na slots=1\n", r"hosts: it names 1 machines, not cluster\.train\.nodes=2; make them equal"),
        ("a slots=1\na slots=1\n", r"hosts:2: 'a slots=1' is named twice; give every machine one such line"),
        ("a\n", r"hosts:1: 'a' is not `HOST slots=N`; give every machine one such line"),
        (None, r"hosts: no such file or directory; give a file with a line `HOST slots=N` for each machine"),
    ],
)
def test_a_hostfile_that_is_not_the_recipes_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "hosts").write_text(text)
    with pytest.raises(InputError, match=r"cluster\.train\.hostfile: .*" + message):
        check_machines(demo("processes=1", "nodes=2", f"hostfile={tmp_path}/hosts"))


def test_a_hostfile_of_several_machines_needs_pdsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts").write_text("a slots=1\nb slots=1  # the other\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="DeepSpeed's launcher needs pdsh and ssh; install them, or give a rendezvous"):
        check_machines(demo("processes=1", "nodes=2", f"hostfile={tmp_path}/hosts"))


def test_the_doctor_tells_of_the_machines(tmp_path: Path) -> None:
    found = {
        finding.subject: finding
        for finding in examine(several("localhost:29400").model_copy(update={"workspace": str(tmp_path)}))
    }
    assert not found["machines"].well
    assert "which no other can reach" in found["machines"].text


def test_there_is_nothing_to_join_where_one_machine_trains_or_starts_the_others(tmp_path: Path) -> None:
    with pytest.raises(GptmillError, match=r"cluster\.train\.nodes is 1: nobody is waited for; leave `join` out"):
        join_recipe(demo(), console=Console())
    with pytest.raises(GptmillError, match=r"cluster\.train\.hostfile starts the ranks of all machines itself"):
        join_recipe(demo("processes=1", "nodes=2", f"hostfile={tmp_path}/hosts"), console=Console())


def test_a_port_that_is_taken_is_told() -> None:
    from jobs.network import way_to

    try:
        _, here = way_to("192.0.2.1")
    except OSError:
        pytest.skip("this machine has no network but its loopback")
    with socket.create_server((here, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            SetupError, match=rf"rendezvous: {here}:{port}: the port is not free: address already in use"
        ):
            check_machines(several(f"{here}:{port}"))

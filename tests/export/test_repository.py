"""The repository on disk: what is committed, what is written, and that a failure changes nothing."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from vitriton._repository import disk
from vitriton.preprocessing import PreprocessSpec
from vitriton_export import ExportError
from vitriton_export._repository import deployment as _deployment
from vitriton_export._repository import install
from vitriton_export._repository.deployment import read_fingerprint
from vitriton_export.placeholder import default_deployment
from vitriton_server import RepositoryError
from vitriton_server._rollout import repository as server_repository

ROOT = Path(__file__).parents[2]
NAME = "vit-base-patch16-224"


def _files(folder):
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _config(repository, model):
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), pb.ModelConfig())


@pytest.fixture
def written(tmp_path):
    """The text files of the default model's export."""
    _deployment.write(default_deployment(), tmp_path / "repository")
    return tmp_path / "repository"


def test_the_committed_repository_is_what_the_exporter_writes(written):
    """`make model-repository` has been run since the exporter changed."""
    committed = _files(ROOT / "model_repository")
    committed.pop("README.md")
    # an export into the checkout adds what git ignores
    committed = {name: data for name, data in committed.items() if not name.endswith(("model.onnx", "manifest.json"))}
    assert committed == _files(written)


def test_every_queue_is_bounded_and_obeys_a_request_s_own_timeout(written):
    """Triton needs an override *and* a default timeout for that, in the preprocess model as in the encoders."""
    for model in (f"{NAME}_preprocess", f"{NAME}_pooled_encoder", f"{NAME}_unpooled_encoder"):
        policy = _config(written, model).dynamic_batching.default_queue_policy
        assert policy.allow_timeout_override
        assert policy.default_timeout_microseconds > 0
        assert policy.max_queue_size > 0
        assert policy.timeout_action == pb.ModelQueuePolicy.REJECT


def test_an_ensemble_says_which_embedding_space_it_is(written):
    """A client reads the fingerprint from the config, of any Triton."""
    for kind in ("pooled", "unpooled"):
        assert _config(written, f"{NAME}_{kind}").parameters["fingerprint"].string_value == "not-exported"
        assert read_fingerprint(written / f"{NAME}_{kind}" / "config.pbtxt") == "not-exported"


def _parameters(repository, model):
    return {key: value.string_value for key, value in _config(repository, model).parameters.items()}


def test_an_ensemble_says_how_its_pixels_are_made(tmp_path):
    """A client that makes them itself needs the specification, whole and on one line, and the verified Pillow."""
    step = dataclasses.replace(default_deployment().step, pillow_version="11.2.3")
    deployment = _as("v1-a", step=step, revision="0123abc")
    _deployment.write(deployment, tmp_path)
    for kind in ("pooled", "unpooled"):
        parameters = _parameters(tmp_path, f"{NAME}_{kind}")
        assert PreprocessSpec.from_json(parameters["preprocess"]) == step.spec
        assert "\n" not in parameters["preprocess"]
        assert parameters["pillow_version"] == "11.2.3"
        assert parameters["revision"] == "0123abc"
        assert (tmp_path / f"{NAME}_{kind}_encoder").is_dir()  # the name that a client derives
    assert _parameters(tmp_path, f"{NAME}_preprocess")["pillow_version"] == "11.2.3"


def test_a_revision_is_written_where_there_is_one(tmp_path):
    """A checkpoint in a folder has none."""
    _deployment.write(_as("v1-a", revision=None), tmp_path)
    assert "revision" not in _parameters(tmp_path, f"{NAME}_pooled")


def test_the_same_deployment_gives_the_same_bytes(written, tmp_path):
    """Nothing in the text files depends on when or where they are written."""
    _deployment.write(default_deployment(), tmp_path / "again")
    assert _files(tmp_path / "again") == _files(written)


def _as(fingerprint, **changes):
    return dataclasses.replace(default_deployment(), fingerprint=fingerprint, **changes)


def test_a_target_of_another_embedding_space_is_refused(written):
    """Vectors of two spaces must not mix under one name; the placeholder is no space yet."""
    install.check_target(written, _as("v1-a"))
    install.check_target(written, _as("v1-b", name="other"))
    config = written / f"{NAME}_unpooled" / "config.pbtxt"
    config.write_text(config.read_text().replace("not-exported", "v1-a"))
    install.check_target(written, _as("v1-a"))
    with pytest.raises(ExportError, match=r"another embedding space as vit-base-patch16-224, .*use another --name"):
        install.check_target(written, _as("v1-b"))


@pytest.mark.parametrize("config", [None, "backend: 'python'", "no protobuf {"])
@pytest.mark.parametrize("model", ["pooled", "unpooled", "preprocess", "pooled_encoder", "unpooled_encoder"])
def test_a_target_that_somebody_else_wrote_is_refused(tmp_path, model, config):
    """A folder of any of the five names without a fingerprint is left alone."""
    (tmp_path / f"m_{model}").mkdir()
    if config is not None:
        (tmp_path / f"m_{model}" / "config.pbtxt").write_text(config)
    with pytest.raises(ExportError, match="was not written by vitriton export"):
        install.check_target(tmp_path, _as("v1-a", name="m", shapes={"pooled": (4,)}))


def test_a_target_that_clients_could_not_go_on_with_is_refused(tmp_path):
    """Smaller batches, and other tensors; larger batches are fine."""
    _deployment.write(_as("v1-a"), tmp_path)
    install.check_target(tmp_path, _as("v1-a"))
    install.check_target(tmp_path, _as("v1-a", max_batch_size=64))
    with pytest.raises(ExportError, match="--max-batch-size 32, which clients rely on, and 8 is less; use another"):
        install.check_target(tmp_path, _as("v1-a", max_batch_size=8))
    with pytest.raises(ExportError, match=r"another output of .*_pooled_encoder \(name: \"embedding\".*dims: 768\)"):
        install.check_target(tmp_path, _as("v1-a", shapes={"pooled": (384,)}))


def _staged(staging, deployment, mark):
    _deployment.write(deployment, staging)
    for model in deployment.model_names:
        (staging / model / mark).touch()


def _installed(repository, deployment, mark):
    with install.staging_folder(repository, 0) as staging:
        assert staging.parent == repository.parent
        _staged(staging, deployment, mark)
        for model in deployment.model_names:
            (staging / model / "1" / mark).touch()
        return install.install(staging, repository, deployment)


def _pins(repository, model):
    config = _config(repository, model)
    steps = {step.model_name: step.model_version for step in config.ensemble_scheduling.step}
    return list(config.version_policy.specific.versions), set(steps.values())


def test_a_replacement_is_a_new_version_that_the_ensembles_name(tmp_path):
    """The old version goes, other models are not touched, and nothing is left beside."""
    repository = tmp_path / "repository"
    assert _installed(repository, _as("v1-a"), "old") == 1
    (repository / "other").mkdir()
    (repository / "other" / "mine").touch()
    assert _pins(repository, f"{NAME}_pooled") == ([1], {1})
    assert _installed(repository, _as("v1-a"), "new") == 2
    assert {path.parent.name for path in repository.rglob("new")} == {"2"}
    assert not list(repository.rglob("1/old"))
    assert all(_pins(repository, f"{NAME}_{kind}") == ([2], {2}) for kind in ("pooled", "unpooled"))
    assert (repository / "other" / "mine").exists()
    assert list(tmp_path.iterdir()) == [repository]
    assert not (repository / ".vitriton.json").exists()


def test_one_output_alone_can_be_replaced(tmp_path):
    """The other goes on with its own version of the preprocess step, until it is replaced as well."""
    repository = tmp_path / "repository"
    _installed(repository, _as("v1-a"), "old")
    pooled = _as("v1-a", shapes={"pooled": (768,)})
    assert _installed(repository, pooled, "new") == 2
    assert _pins(repository, f"{NAME}_pooled") == ([2], {2})
    assert _pins(repository, f"{NAME}_unpooled") == ([1], {1})
    assert disk.versions(repository / f"{NAME}_preprocess") == {1, 2}
    assert _installed(repository, _as("v1-a"), "newest") == 3
    assert {version for model in repository.iterdir() for version in disk.versions(model)} == {3}


def test_a_version_that_a_server_uses_stays_until_it_does_not(tmp_path):
    """It is remembered in the journal; whoever comes next removes it."""
    repository = tmp_path / "repository"
    _installed(repository, _as("v1-a"), "old")
    uses = disk.Uses()
    used = repository / f"{NAME}_pooled_encoder" / "1"
    uses.add([used])
    _installed(repository, _as("v1-a"), "new")
    assert used.is_dir()
    assert disk.read_journal(repository) == {f"{NAME}_pooled_encoder": {1}}
    uses.keep([])
    with install.staging_folder(repository, 0):
        assert not used.exists()
    assert not (repository / ".vitriton.json").exists()


def test_nothing_is_removed_where_a_configuration_cannot_be_read(tmp_path, caplog):
    """It may be an ensemble that needs what seems superfluous."""
    repository = tmp_path / "repository"
    _installed(repository, _as("v1-a"), "old")
    (repository / "strange").mkdir()
    (repository / "strange" / "config.pbtxt").write_text("no protobuf {")
    _installed(repository, _as("v1-a"), "new")
    assert disk.versions(repository / f"{NAME}_pooled_encoder") == {1, 2}
    assert "holds a config.pbtxt that cannot be read" in caplog.text


def test_the_placeholder_is_replaced_as_a_whole(written):
    """A checkout's text files keep their paths: the first export into it is version 1."""
    assert _installed(written, _as("v1-a"), "new") == 1
    assert {version for model in written.iterdir() for version in disk.versions(model)} == {1}


def test_an_export_of_an_older_version_is_replaced(tmp_path):
    """One whose configurations lack what a newer exporter writes, but for the fingerprint, is known all the same."""
    repository = tmp_path / "repository"
    _staged(repository, _as("v1-a"), "old")
    for path in repository.glob("*/config.pbtxt"):
        config = _config(repository, path.parent.name)
        config.ClearField("version_policy")
        for step in config.ensemble_scheduling.step:
            step.model_version = -1
        for key in ("preprocess", "pillow_version", "revision"):
            config.parameters.pop(key, None)
        path.write_text(text_format.MessageToString(config))
    with install.staging_folder(repository, 0) as staging:
        _staged(staging, _as("v1-a"), "new")
        install.install(staging, repository, _as("v1-a"))
    assert "preprocess" in _parameters(repository, f"{NAME}_unpooled")
    assert not any(name.endswith("/old") for name in _files(repository))


def test_an_install_that_fails_is_undone(tmp_path):
    """A model that is missing from the staging folder stands for any refusal of the file system."""
    repository = tmp_path / "repository"
    deployment = _as("v1-a")
    _staged(repository, deployment, "old")
    before = _files(repository)
    with install.staging_folder(repository, 0) as staging:
        _staged(staging, deployment, "new")
        shutil.rmtree(staging / f"{NAME}_unpooled_encoder")
        with pytest.raises(OSError, match="No such file"):
            install.install(staging, repository, deployment)
    assert _files(repository) == before


def test_install_looks_at_the_target_once_more(tmp_path):
    """What another export put there since the plan was made is not written over."""
    repository = tmp_path / "repository"
    with install.staging_folder(repository, 0) as staging:
        _staged(staging, _as("v1-a"), "new")
        _staged(repository, _as("v1-b"), "theirs")
        with pytest.raises(ExportError, match="another embedding space"):
            install.install(staging, repository, _as("v1-a"))
    assert (repository / f"{NAME}_pooled" / "theirs").exists()


def _fail_while_staging(repository):
    with install.staging_folder(repository, 0) as staging:
        (staging / "file").touch()
        raise RuntimeError("something else")


def test_a_staging_folder_goes_whatever_happens(tmp_path):
    """An error in between leaves nothing behind."""
    with pytest.raises(RuntimeError, match="something else"):
        _fail_while_staging(tmp_path / "repository")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    """A staging folder whose lock is free belongs to nobody; one whose lock is held is in use."""
    folders = [tmp_path / f".repository.staging-{state}" for state in ("abandoned", "used")]
    for folder in folders:
        folder.mkdir()
        (folder / ".lock").touch()
    with (folders[1] / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with install.staging_folder(tmp_path / "repository", 0):
            assert [folder.exists() for folder in folders] == [False, True]


def test_a_disk_that_is_too_full_is_refused_before_any_work(tmp_path):
    """The error says how much there is and how much it takes."""
    with (
        pytest.raises(ExportError, match="MB free and the export needs 1000000000000 MB"),
        install.staging_folder(tmp_path / "repository", 10**18),
    ):
        pass


def _refusal(repository):
    with pytest.raises(ExportError) as caught, install.staging_folder(repository, 0):
        pass
    return str(caught.value)


def test_a_repository_below_a_file_is_refused(tmp_path):
    """What cannot be made is named."""
    (tmp_path / "file").touch()
    repository = tmp_path / "file" / "repository"
    assert _refusal(repository) == (
        f"repository {repository} cannot be written to: File exists; choose another --repository"
    )


@pytest.fixture
def shared():
    """A folder that everybody can look into, for a test that runs as nobody where it would be root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextlib.contextmanager
def _without_rights():
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("locked", ["repository", "folder above"])
def test_a_repository_that_may_not_be_written_is_refused_before_any_work(shared, locked):
    """The error names the repository and both folders that need the right, and nothing of the staging."""
    repository = shared / "above" / "repository"
    repository.mkdir(parents=True)
    shared.chmod(0o777)
    (repository if locked == "folder above" else repository.parent).chmod(0o777)
    (repository.parent if locked == "folder above" else repository).chmod(0o555)
    with _without_rights():
        text = _refusal(repository)
    assert text == (
        f"repository {repository} cannot be written to: Permission denied; get write permission for it and for "
        f"{repository.parent}, where the export is staged, or choose another --repository"
    )


def test_a_full_disk_names_the_repository(tmp_path):
    """Wherever it was noticed, what helps is room beside the repository, or another one."""
    refused = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / ".r.staging-x" / "model.onnx"))
    assert str(install.not_writable(tmp_path / "r", refused)) == (
        f"repository {tmp_path}/r cannot be written to: No space left on device; make room in {tmp_path}, or choose "
        "another --repository"
    )


@pytest.mark.parametrize(
    "name", ["plain-1.0_x", "+=@,:~%", "a b", "ö", "quo'te", "semi;colon", "$HOME", "star*", "(x)"]
)
def test_a_path_is_servable_where_the_server_takes_it(tmp_path, name):
    """What the exporter warns of is what `vitriton serve` refuses."""
    repository = tmp_path / name
    _staged(repository, _as("v1-a", shapes={}), "mark")
    try:
        served = server_repository.check(repository) == [f"{NAME}_preprocess"]
    except RepositoryError:
        served = False
    assert install.is_servable(repository) == served

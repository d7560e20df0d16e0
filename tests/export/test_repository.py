"""The repository on disk: what is committed, what is written, and that a failure changes nothing."""

import fcntl
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from vitriton_export import ExportError, _deployment, _repository
from vitriton_export._deployment import read_fingerprint
from vitriton_export.placeholder import default_deployment

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


def test_a_target_of_another_embedding_space_is_refused(written):
    """Vectors of two spaces must not mix under one name; the placeholder is no space yet."""
    _repository.check_target(written, NAME, "v1-a")
    _repository.check_target(written, "other", "v1-b")
    config = written / f"{NAME}_unpooled" / "config.pbtxt"
    config.write_text(config.read_text().replace("not-exported", "v1-a"))
    _repository.check_target(written, NAME, "v1-a")
    with pytest.raises(ExportError, match=r"another embedding space as vit-base-patch16-224 .*use another --name"):
        _repository.check_target(written, NAME, "v1-b")


@pytest.mark.parametrize("config", [None, "backend: 'python'", "no protobuf {"])
def test_a_target_that_somebody_else_wrote_is_refused(tmp_path, config):
    """A folder of that name without a fingerprint is left alone."""
    (tmp_path / "m_pooled").mkdir()
    if config is not None:
        (tmp_path / "m_pooled" / "config.pbtxt").write_text(config)
    with pytest.raises(ExportError, match="was not written by vitriton export"):
        _repository.check_target(tmp_path, "m", "v1-a")


def test_install_replaces_what_is_there_and_leaves_the_rest(tmp_path):
    """Each model is swapped as a whole; other models are not touched."""
    repository = tmp_path / "repository"
    for model in ("a", "other"):
        (repository / model).mkdir(parents=True)
        (repository / model / "old").touch()
    with _repository.staging_folder(repository, 0) as staging:
        assert staging.parent == repository.parent
        for model in ("a", "b"):
            (staging / model).mkdir()
            (staging / model / "new").touch()
        _repository.install(staging, repository, ["b", "a"])
    assert _files(tmp_path) == {"repository/a/new": b"", "repository/b/new": b"", "repository/other/old": b""}


def _fail_while_staging(repository):
    with _repository.staging_folder(repository, 0) as staging:
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
        with _repository.staging_folder(tmp_path / "repository", 0):
            assert [folder.exists() for folder in folders] == [False, True]


def test_a_disk_that_is_too_full_is_refused_before_any_work(tmp_path):
    """The error says how much there is and how much it takes."""
    with (
        pytest.raises(ExportError, match="MB free and the export needs 1000000000000 MB"),
        _repository.staging_folder(tmp_path / "repository", 10**18),
    ):
        pass


def test_a_repository_below_a_file_is_refused(tmp_path):
    """What cannot be made is named."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(ExportError, match=r"cannot be written to: .*choose another --repository"),
        _repository.staging_folder(tmp_path / "file" / "repository", 0),
    ):
        pass

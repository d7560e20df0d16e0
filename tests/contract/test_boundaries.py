"""What holds between the distributions: who may import whom, and the names that two sides must agree on."""

import ast
import importlib
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tomllib
from contract import house
from vitriton._repository import names
from vitriton_bench import _payload as payload
from vitriton_server._process import runtime

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ("client", "export", "server", "bench", "api", "search", "ray")
OURS = {"vitriton" if name == "client" else f"vitriton_{name}" for name in DISTRIBUTIONS}
STEPS = (
    "export/src/vitriton_export/triton/preprocess/model.py",
    "export/src/vitriton_export/triton/tokenize/model.py",
    "server/src/vitriton_server/backends/onnxruntime/model.py",
)
INSIDE_TRITON = (
    *sorted(
        f"client/{path.relative_to(ROOT / 'client')}"
        for path in (ROOT / "client/src/vitriton/preprocessing").glob("*.py")
    ),
    *STEPS,
    "export/src/vitriton_export/triton/tokenize/vitriton_tokenizing.py",
    "server/src/vitriton_server/backends/onnxruntime/vitriton_onnxruntime_runs.py",
    "server/src/vitriton_server/backends/onnxruntime/vitriton_onnxruntime_shared.py",
)


def _imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("distribution", "package", "allowed"),
    [
        ("client", "vitriton", set()),
        ("export", "vitriton_export", {"vitriton"}),
        ("server", "vitriton_server", {"vitriton"}),
        ("bench", "vitriton_bench", {"vitriton", "vitriton_server"}),
        ("api", "vitriton_api", {"vitriton"}),
        ("search", "vitriton_search", {"vitriton"}),
        ("ray", "vitriton_ray", {"vitriton", "vitriton_server"}),
    ],
)
def test_dependencies_point_one_way(distribution, package, allowed):
    """The client knows none of the others."""
    for path in (ROOT / distribution / "src").rglob("*.py"):
        assert _imported(path) & OURS <= allowed | {package}, path


def shared_modules() -> set[str]:
    """What docs/architecture.md lets the other distributions import of the client."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split("## Private modules that other distributions import", 1)[1].split("\n## ", 1)[0]
    public = set(re.findall(r"`vitriton\.(\w+)`", section))
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return public | set(re.findall(r"`(\w+)`", " ".join(rows)))


def _rooms_of_the_client(path: Path) -> set[str]:
    """The rooms of `vitriton` that a file imports; its public names are in none."""
    rooms = set(house.rooms(house.package_folder(ROOT, "client")))
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "vitriton":
            found |= {f"vitriton.{alias.name}" for alias in node.names if alias.name in rooms}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[1] for name in found if name.startswith("vitriton.")}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS[1:])
def test_the_others_use_of_the_client_what_is_declared(distribution):
    """Everything else of the client may change without a look at them."""
    used = {path: _rooms_of_the_client(path) for path in (ROOT / distribution).rglob("*.py")}
    assert any(used.values())
    assert {path: rooms - shared_modules() for path, rooms in used.items() if rooms - shared_modules()} == {}


def test_what_is_declared_is_used():
    """A row of the table that nobody needs is taken out of it."""
    files = (path for name in DISTRIBUTIONS[1:] for path in (ROOT / name).rglob("*.py"))
    used = set().union(*map(_rooms_of_the_client, files))
    assert {room for room in shared_modules() if room.startswith("_")} <= used


def floors(distribution: str) -> list[list[str]]:
    """The rooms of a distribution as docs/architecture.md draws them, a list for each line, from the top down."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    picture = text.split("## Rooms", 1)[1].split("```")[1]
    block = next(part for part in picture.split("\n\n") if part.strip().startswith(f"{distribution} "))
    names = set(house.rooms(house.package_folder(ROOT, distribution)))
    return [[word for word in line.split() if word in names and word != distribution] for line in block.splitlines()]


@pytest.mark.parametrize("distribution", house.PACKAGES)
def test_the_picture_of_the_rooms_is_true(distribution):
    """Each room is in it, and imports rooms of lower lines alone."""
    package = house.package_folder(ROOT, distribution)
    floor = {room: number for number, line in enumerate(floors(distribution)) for room in line}
    assert sorted(floor) == [room for room in house.rooms(package) if room != "__init__"]
    upwards = [
        f"{room} imports {to}"
        for room, imported in house.arrows(package).items()
        for to in imported
        if "__init__" not in (room, to) and floor[to] <= floor[room]
    ]
    assert not upwards


@pytest.mark.parametrize("distribution", house.PACKAGES)
def test_no_circles(distribution):
    """No module imports itself by way of others."""
    assert not house.circle(house.module_arrows(house.package_folder(ROOT, distribution)))


@pytest.mark.parametrize("file", INSIDE_TRITON)
def test_what_runs_inside_triton_stands_alone(file):
    """It works in a Triton where nothing of the project is installed, by whatever name its folder has there."""
    assert not _imported(ROOT / file) & OURS
    imports = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.ImportFrom)]
    assert all(node.level <= 1 for node in imports)  # from its own folder


def test_the_tokenize_step_needs_only_what_lies_beside_it():
    """Of our modules, it imports the two that are copied into its folder alone, and these import none of ours."""
    folder = ROOT / "export/src/vitriton_export/triton/tokenize"
    refusals = ROOT / "client/src/vitriton/preprocessing/refusals.py"
    ours = {name for name in _imported(folder / "model.py") if name.startswith("vitriton")}
    assert ours == {"vitriton_refusals", "vitriton_tokenizing"}
    for path in (folder / "vitriton_tokenizing.py", refusals):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not any(node.level or (node.module or "").startswith("vitriton") for node in imports), path


def test_every_grpc_channel_has_the_same_options():
    """A channel without them goes through the proxies of the environment, and takes messages of 4 MB."""
    makers = {"InferenceServerClient", "insecure_channel", "secure_channel"}
    found = 0
    for path in (path for name in (*DISTRIBUTIONS, "examples") for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in makers:
                found += 1
                assert {keyword.arg for keyword in node.keywords} & {"channel_args", "options"}, (path, node.lineno)
    assert found >= 6


def _project(distribution: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]


def test_one_version():
    """The distributions have one version and require one another in it; the images are tagged with it."""
    projects = [_project(name) for name in DISTRIBUTIONS]
    version = projects[0]["version"]
    assert {project["version"] for project in projects} == {version}
    required = [
        requirement
        for project in projects
        for group in (project["dependencies"], *project.get("optional-dependencies", {}).values())
        for requirement in group
        if requirement.startswith("vitriton")
    ]
    assert required
    assert all(requirement.endswith(f"=={version}") for requirement in required)
    settings = [ROOT / ".env.example", *ROOT.glob("docker-compose*.yml")]
    tags = {tag for path in settings for tag in re.findall(r"VITRITON_TAG(?::-|=)([^}\s]*)", path.read_text())}
    assert tags == {version}
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_links_work_on_a_package_index(distribution):
    """A distribution's README has no relative links, and those into this repository lead to a file that is there."""
    project = _project(distribution)
    base = f"{project['urls']['Homepage']}/blob/main/"
    links = re.findall(r"\]\(([^)]*)\)", (ROOT / distribution / "README.md").read_text())
    assert all(link.startswith(("https://", "#")) for link in [*links, *project["urls"].values()])
    inside = [link.removeprefix(base).partition("#")[0] for link in links if link.startswith(base)]
    assert all((ROOT / path).is_file() for path in inside), inside


def test_every_package_has_that_version():
    """It is read in one place, from the metadata of the client."""
    modules = [importlib.import_module(package) for package in sorted(OURS)]
    assert {module.__version__ for module in modules} == {metadata.version("vitriton")}


def _constants_of_calls(file: str) -> dict[str, list[Any]]:
    """The constants that a file gives to each function that it calls."""
    calls = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.Call)]
    return {
        ast.unparse(call.func): [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        for call in calls
    }


def test_what_stands_alone_agrees_on_the_names_of_tensors():
    """The first steps in Triton and the writer of perf_analyzer's input repeat the names of the ground floor."""
    preprocess, tokenize = _constants_of_calls(STEPS[0]), _constants_of_calls(STEPS[1])
    assert preprocess["pb_utils.get_input_tensor_by_name"] == [names.IMAGE]
    assert preprocess["pb_utils.Tensor"] == [names.PIXELS]
    assert tokenize["pb_utils.get_input_tensor_by_name"] == [names.TEXT]
    dicts = [node for node in ast.walk(ast.parse((ROOT / STEPS[1]).read_text())) if isinstance(node, ast.Dict)]
    returned = [ast.literal_eval(key) for node in dicts for key in node.keys if key is not None]
    assert returned == [names.INPUT_IDS, names.ATTENTION_MASK, names.TOKEN_COUNTS]
    assert (payload.IMAGE, payload.TEXT) == (names.IMAGE, names.TEXT)


def test_the_names_of_an_export():
    """What is needed comes before what needs it; a name is read as it was written."""
    assert names.model_names("m", ["pooled"]) == ["m_preprocess", "m_pooled_encoder", "m_pooled"]
    assert sorted(names.model_names("m", names.kinds_of("image"))) == sorted(
        ["m_preprocess", "m_pooled_encoder", "m_unpooled_encoder", "m_pooled", "m_unpooled"]
    )
    assert names.model_names("m", ["text_pooled"]) == ["m_tokenize", "m_text_pooled_encoder", "m_text_pooled"]
    for kind in names.KINDS:
        assert names.read_ensemble_name(names.ensemble_name("a_pooled", kind)) == ("a_pooled", kind)
    for other in ("m", "_pooled", "m_pooled_encoder", "m_preprocess"):
        assert names.read_ensemble_name(other) is None


def test_the_launcher_tells_the_python_steps_their_cores():
    """The variable that one sets, both first steps and the onnxruntime backend read."""
    for file in STEPS:
        assert runtime.CORES_VARIABLE in (ROOT / file).read_text()

"""Nothing that arrives or lies on a disk is unpickled (SECURITY.md): no call in src does it."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def found(source):
    """What unpickles, or may: names of calls."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in SAFE:
            word, value = SAFE[name]
            said = [k.value for k in node.keywords if k.arg == word]
            if not (said and isinstance(said[0], ast.Constant) and said[0].value is value):
                yield name
        if name.split(".")[0] in MODULES or name.split(".")[-1].endswith(("_object", "_objects")):
            yield name
        if name.split(".")[-1].endswith("_object_list"):
            yield name


@pytest.mark.parametrize(
    "source",
    [
        "pickle.loads(x)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "dist.broadcast_object_list(x)",
        "dist.all_gather_object(x, y)",
    ],
)
def test_what_unpickles_is_found(source):
    assert list(found(source)) == [source.split("(")[0]]


def test_no_module_unpickles():
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 200
    calls = [(str(file), name) for file in files for name in found(file.read_text())]
    assert calls == []

"""Imports go down only, no name at the root hides another package, and every module is tested."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

# Each imports only what lies below it; within a level, nobody imports a neighbour.
LEVELS = [
    ["cli"],
    ["stylegan", "bicubic", "SphericalOptimizer", "search_settings"],
    ["loss"],
    ["safe_files", "fast"],
    ["drive"],
    ["generators", "imaging"],
    ["PULSE"],
    ["runner", "benchmarks", "training"],
    ["evaluation"],
    ["run", "align_face", "evaluate", "experiments", "bench", "convert"],
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}

# What users import beside this checkout: PyTorch, Hugging Face and scientific Python. evaluate is
# the one name that is taken twice; evaluate.py is a command, and README.md says how to avoid it.
PACKAGES = """
accelerate datasets diffusers evaluate huggingface_hub optimum peft safetensors timm tokenizers
transformers trl torch torchvision torchaudio torchmetrics torchdata functorch lightning
pytorch_lightning fairscale apex ignite numpy scipy pandas sklearn skimage matplotlib seaborn
PIL cv2 imageio h5py sympy networkx numba dask xarray IPython ipykernel ipywidgets notebook
jupyter gradio streamlit wandb tensorboard tqdm requests yaml jinja2 click lpips pyiqa
facenet_pytorch face_recognition dlib insightface kornia einops clip open_clip cleanfid piq
kernels triton xformers deepspeed jax flax tensorflow keras onnx onnxruntime
""".split()  # noqa: SIM905
STANDARD_FROM_3_10_TO_3_15 = set(sys.stdlib_module_names) | {
    *("asyncore", "asynchat", "imp", "smtpd", "distutils"),  # until 3.11
    *("aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "mailcap", "msilib", "nis"),
    *("nntplib", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib"),
    *("lib2to3", "annotationlib", "compression", "concurrent", "profiling", "pathlib", "string"),
}


def files() -> dict[str, list]:
    """The Python files of each name at the root, a module or a package; tests are none of them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, list] = {}
    for name in listed.stdout.split():
        top = name.split("/")[0].removesuffix(".py")
        if top not in ("tests", "demo", "docs") and (ROOT / name).exists():
            found.setdefault(top, []).append(ROOT / name)
    return found


def imported(source: str) -> set[str]:
    """Every module that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def upward(top: str, source: str) -> list[str]:
    """What a file of `top` imports although it does not lie below."""
    tops = {name.split(".")[0] for name in imported(source)} & LEVEL.keys()
    return sorted(name for name in tops if name != top and LEVEL[name] >= LEVEL[top])


def test_every_file_has_its_level_and_imports_go_down_only():
    assert files().keys() == LEVEL.keys()
    for top, paths in files().items():
        for path in paths:
            assert not upward(top, path.read_text()), path


@pytest.mark.parametrize(
    ("top", "line"),
    [
        ("loss", "from PULSE import PULSE"),
        ("generators", "import imaging.pictures"),
        ("runner", "def late():\n    from run import main"),
        ("cli", "import search_settings"),
    ],
)
def test_an_arrow_that_is_turned_is_found(top, line):
    path = files()[top][0]
    assert not upward(top, path.read_text())
    assert upward(top, f"{path.read_text()}\n{line}\n")


def test_the_root_is_small_and_hides_nobodys_package():
    roots = [path for paths in files().values() for path in paths if path.parent == ROOT]
    assert len(roots) <= 14
    assert not files().keys() & STANDARD_FROM_3_10_TO_3_15
    assert files().keys() & set(PACKAGES) == {"evaluate"}
    assert "profiling" in STANDARD_FROM_3_10_TO_3_15 and "accelerate" in PACKAGES


def test_every_module_is_imported_by_a_test_by_name():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    names = imported(tests)
    names |= set(re.findall(r"[\w.]+", " ".join(re.findall(r'"-m", "([\w.]+)"', tests))))
    for paths in files().values():
        for path in paths:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert module.endswith("__init__") or module in names, module


def test_no_file_is_long():
    for paths in files().values():
        for path in paths:
            assert path.read_text().count("\n") <= 450, path
    for path in (ROOT / "tests").rglob("*.py"):
        assert path.read_text().count("\n") <= 500, path

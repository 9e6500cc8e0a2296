"""The house rules that a compiler does not check: module levels, banned headers, words that do not belong here."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "libbitrain" / "bitrain"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)

# Umbrella headers of torch cost 10 to 24 seconds in every file that includes one.
BANNED = {"torch/torch.h", "torch/all.h", "torch/extension.h", "ATen/ATen.h", "torch/nn.h", "torch/script.h"}

# Third-party headers and the only modules that may include them.
THIRD_PARTY = {
    "yaml-cpp/": {"recipe"},
    "CLI/": {"cli"},
    "sentencepiece": {"text"},
    "pcre2": {"text"},
    "oniguruma.h": {"text"},
    "utf8proc": {"text"},
    "zstd": {"io"},
    "zlib.h": {"io"},
    "pybind11": set(),
    "cuda": {"kernels"},
}


def module_dependencies():
    """Module -> modules it may include, read from the one place that says so: libbitrain/CMakeLists.txt."""
    text = (ROOT / "libbitrain" / "CMakeLists.txt").read_text()
    direct = {}
    for call in re.finditer(r"bitrain_add_module\(([^)]*)\)", text):
        words = call.group(1).split()
        depends = words[words.index("DEPENDS") + 1 :] if "DEPENDS" in words else []
        for keyword in ("LINK", "ALONE"):
            if keyword in depends:
                depends = depends[: depends.index(keyword)]
        for dependency in depends:
            assert dependency in direct, f"{words[0]} depends on {dependency}, which is not of a lower level"
        direct[words[0]] = set(depends)
    closed = {}
    for module, depends in direct.items():  # in order of level, so lower ones are closed already
        closed[module] = set(depends).union(*(closed[d] for d in depends)) if depends else set()
    return closed


def sources():
    return [p for p in LIBRARY.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}]


def test_modules_include_only_lower_levels():
    allowed = module_dependencies()
    assert allowed, "no modules found"
    violations = []
    for path in sources():
        module = path.relative_to(LIBRARY).parts[0]
        if path.parent == LIBRARY:
            continue  # the users' umbrella
        assert module in allowed, f"{module} is not declared in libbitrain/CMakeLists.txt"
        for include in INCLUDE.findall(path.read_text()):
            if include.startswith("bitrain/"):
                target = include.split("/")[1]
                if target != module and target not in allowed[module]:
                    violations.append(f"{path.relative_to(ROOT)} includes {include}: {module} may not use {target}")
    assert not violations, "\n".join(violations)


def test_no_umbrella_headers():
    violations = [
        f"{path.relative_to(ROOT)} includes {include}"
        for path in [*sources(), *(ROOT / "tests").rglob("*.cpp"), *(ROOT / "examples").rglob("*.cpp")]
        for include in INCLUDE.findall(path.read_text())
        if include in BANNED
    ]
    assert not violations, "\n".join(violations)


def test_third_party_headers_stay_in_their_modules():
    violations = []
    for path in sources():
        module = path.relative_to(LIBRARY).parts[0]
        for include in INCLUDE.findall(path.read_text()):
            for prefix, modules in THIRD_PARTY.items():
                if include.startswith(prefix) and module not in modules:
                    violations.append(f"{path.relative_to(ROOT)} includes {include}")
    assert not violations, "\n".join(violations)


def test_kernels_know_no_torch():
    violations = [
        f"{path.relative_to(ROOT)} includes {include}"
        for path in (LIBRARY / "kernels").iterdir()
        if path.suffix in {".h", ".cpp", ".cu"}
        for include in INCLUDE.findall(path.read_text())
        if include.startswith(("torch/", "ATen/", "c10/"))
    ]
    assert not violations, "\n".join(violations)


def test_program_needs_no_gpu_driver_and_no_protobuf():
    """CPU runs must start on machines without a driver, and libprotobuf beside SentencePiece crashes (docs)."""
    import os

    build = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release"))
    dynamic = subprocess.run(
        ["readelf", "-d", build / "bin" / "bitrain"], check=True, capture_output=True, text=True
    ).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert needed
    for library in ("libcuda.so", "libtorch_cuda", "libprotobuf"):
        assert not [n for n in needed if n.startswith(library)], needed


def test_no_unfinished_work_marks():
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b")
    violations = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not violations, "\n".join(violations)


def test_numbers_are_written_and_read_in_no_locale():
    """Programs that use bitrain may have set a decimal comma: base/format.h, std::from_chars and std::to_chars know none."""
    banned = re.compile(r"c10::str\(|\bato[fl]\(|\bstrto[df]\(|\bstrtold\(|std::sto[df]\(|std::stold\(|stringstream\b"
                        r"|\bv?s?n?printf\([^;]*?%[-+ #0-9.*]*[aefgAEFG]")
    reasons = {
        "base/format.h": "a stream of the classic locale",
        "cli/cli.cpp": "CLI11's texts, in streams of the classic locale",
        "eval/retrieval.cpp": "streams of the classic locale, for words",
        "recipe/claims.cpp": "strtod under ClassicLocale",
        "recipe/document.cpp": "characters for yaml-cpp, no numbers",
        "text/spm_trainer.cpp": "a number for a reader that uses the program's locale",
        "train/step.cpp": "nan and inf",
    }
    found = {str(path.relative_to(LIBRARY)) for path in sources() if banned.search(path.read_text())}
    assert found == set(reasons)

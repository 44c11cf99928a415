"""Options are what was typed, read once and changed by nobody."""

import dataclasses
from pathlib import Path

import pytest

import evaluate
import experiments
from cli.errors import UserError
from evaluation.options import EvaluateOptions, StudyOptions


@pytest.mark.parametrize(
    ("module", "options", "others"),
    [(evaluate, EvaluateOptions, {"runs"}), (experiments, StudyOptions, set())],
)
def test_every_option_is_a_flag_with_the_same_default(module, options, others):
    required = ["runs"] if others else []
    args = vars(module.parser().parse_args(required))
    assert args.keys() - others == {field.name for field in dataclasses.fields(options)}
    assert options(**{name: args[name] for name in args.keys() - others}) == options()


def test_options_cannot_be_changed_on_the_way():
    for options in (EvaluateOptions(), StudyOptions()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            options.overwrite = True


def test_files_to_write_are_named_by_their_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = EvaluateOptions(csv=Path("o.csv"), html=Path("o.html"))
    assert options.written == {"csv": Path("o.csv"), "html": Path("o.html")}
    options.check(tmp_path)
    Path("o.html").write_text("a text")
    with pytest.raises(UserError, match="-html o.html is there already"):
        options.check(tmp_path)
    dataclasses.replace(options, overwrite=True).check(tmp_path)

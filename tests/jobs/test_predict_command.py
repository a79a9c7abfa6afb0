"""`mcb predict`: what it writes, and the one line that every wrong file gets."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from untrained_runs import untrained

from jobs.cli import main
from jobs.models.source import load_predictor

SUPPORT, QUERY = "x,y\n0.1,1\n-2,0.5\n3,-1\n", "x\n0\n1.5\n"


@pytest.fixture
def model(workplace: Path) -> str:
    (workplace / "support.csv").write_text(SUPPORT)
    (workplace / "query.csv").write_text(QUERY)
    return str(untrained(workplace / "run"))


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_predictions_are_those_of_the_library(model, workplace, capsys):
    (workplace / "query.csv").write_text("\ufeffy, x\n0.2, 0\n0.3, 1.5\n\n")
    words = ["predict", model, "support.csv", "query.csv", "--level", "0.8"]
    assert main([*words, "--json", "made/all.json", "--plot", "made/plot.png"]) == 0
    captured = capsys.readouterr()
    rows = rows_of(captured.out)
    assert list(rows[0]) == ["x", "mean", "scale", "low_80", "high_80", "log_density"]
    predictor = load_predictor(model)
    post = predictor.adapt([0.1, -2, 3], [1, 0.5, -1])
    prediction = post.predict([0, 1.5])
    for name, values in {
        "x": [0, 1.5],
        "mean": prediction.mean,
        "scale": prediction.scale,
        "low_80": prediction.interval(0.8)[0],
        "high_80": prediction.interval(0.8)[1],
        "log_density": prediction.log_density([0.2, 0.3]),
    }.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-7)
    tree = json.loads(Path("made/all.json").read_text())
    assert [row["probability"] for row in tree["modes"]] == post.responsibilities.tolist()
    assert [row["mode"] for row in tree["modes"]] == list(predictor.mode_names)
    assert tree["predictions"][1]["mean"] == prediction.mean[1]
    assert tree["is_unusual"] == post.is_unusual and tree["evidence_percentile"] == post.evidence_percentile
    assert sum(tree["families"].values()) == pytest.approx(1)
    assert f"evidence  {post.log_evidence:.2f} nats" in captured.err and "modes     " in captured.err
    assert Path("made/plot.png").read_bytes().startswith(b"\x89PNG")


def test_predictions_may_go_to_a_file(model, capsys):
    assert main(["predict", model, "support.csv", "query.csv", "--out", "p.csv"]) == 0
    assert capsys.readouterr().out == ""
    assert [row["x"] for row in rows_of(Path("p.csv").read_text())] == ["0", "1.5"]


def test_an_unusual_task_is_said_to_be_one(model, workplace, capsys):
    (workplace / "support.csv").write_text("x,y\n0,1e6\n1,-1e6\n")
    assert main(["predict", model, "support.csv", "query.csv"]) == 0
    assert "unusual   this task is unlike those that the model was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "support.csv is empty: it must have a header, such as x,y"),
        ("0.1,1\n0.2,2\n", "support.csv has no header: its first line must name the columns"),
        ("x\n1\n", "support.csv has no column y: there are x"),
        ("x;y\n1;2\n", "support.csv has no column x: there are x;y; separate columns by commas"),
        ("x,y,z\n1,2,3\n", "support.csv has a column 'z': the columns of this model are x, y"),
        ("x,x,y\n1,2,3\n", "support.csv has two columns 'x'"),
        ("x,y\n", "support.csv has a header and no points"),
        ("x,y\n1,2\n\n3\n", "support.csv, line 4 has 1 cells and the header 2"),
        ("x,y\n1,2\n3,abc\n", "support.csv, line 3: y is 'abc': it must be a finite number"),
        ("x,y\nnan,2\n", "support.csv, line 2: x is 'nan': it must be a finite number"),
        ("x,y\n1,\n", "support.csv, line 2: y is '': it must be a finite number"),
        ("x,y\n1,1e999\n", "support.csv, line 2: y is '1e999': it must be a finite number"),
        ('x,y\n1,"2\n', "support.csv is no CSV file in UTF-8"),
        (b"\xff\xfe\x00", "support.csv is no CSV file in UTF-8"),
        (None, "support.csv cannot be read: No such file or directory"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(text, sentence, model, workplace, capsys):
    path = workplace / "support.csv"
    path.unlink() if text is None else path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["predict", model, "support.csv", "query.csv", "--out", "p.csv"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence}") and error.count("\n") == 1
    assert not Path("p.csv").exists()


def test_options_that_do_not_fit_are_refused(model, capsys):
    words = ["predict", model, "support.csv", "query.csv"]
    for more, code, sentence in [
        (["--level", "90"], 2, "--level 90 must lie inside 0..1, such as 0.9"),
        (["--family", "linear"], 1, "this model finds a task's family itself: leave it out"),
        (["--plot", "p.abc"], 2, "--plot p.abc must end in .png, .pdf or .svg"),
    ]:
        assert main([*words, *more]) == code
        assert sentence in capsys.readouterr().err
    assert main(["predict", "nowhere/at all", "support.csv", "query.csv"]) == 1
    assert "error: there is no model nowhere/at all: name a run's folder" in capsys.readouterr().err

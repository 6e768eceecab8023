"""What is typed, and where it is printed: names that look like numbers, closed streams, words that set nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import ROOT
from hydra import compose, initialize_config_dir

from sise.benchmark import terminal
from sise.benchmark.commands import command as commands_command
from sise.benchmark.commands import sweeps
from sise.benchmark.names import check_names, folder_name
from sise.benchmark.run import cells, settings, unknown_names
from sise.benchmark.run.command_line import TEXT_GROUPS, TEXT_NAMES, TEXTS, as_typed, for_hydra, parsed
from sise.errors import SuiteError

CONFIGS = str(ROOT / "configs")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    "text",
    ["2024_05_01", "1e3", "007", "20240501_120000", "true", "nan", "epoch=3-step=10.jpg", "my cat (1).jpg", "it's.jpg",
     "a#b.jpg", "写真.jpg", "$HOME.jpg", "[1].jpg", "-dash.jpg", "a,b.jpg", "C:\\x\\", " lead", "{a}.jpg", "~/x.jpg"],
)  # fmt: skip
def test_a_path_is_the_word_as_typed(text):
    keys = {
        *TEXTS,
        *(f"some.{name}" for name in TEXT_NAMES),
        *(f"{group}.vgg16" for group in TEXT_GROUPS),
        "+explainer",
    }
    for key in sorted(keys):
        (word,) = for_hydra([f"{key}={text}"])
        (override,) = parsed([word])
        assert override.value() == text and not override.is_sweep_override()
        assert as_typed(word) == f"{key}={text}"


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("image=null", None),
        ("image=[1e3,a b.jpg,c=d]", ["1e3", "a b.jpg", "c=d"]),
        ("only=[shapes/vgg16/sise/mu=1, 'b,c']", ["shapes/vgg16/sise/mu=1", "b,c"]),
        ("image='my cat (1).jpg'", "my cat (1).jpg"),
        ('image="my cat (1).jpg"', "my cat (1).jpg"),
        ("variant=mu${explainer.call.mu}", "mu${explainer.call.mu}"),
        ("limit=7", 7),  # no name
        ("engine.threads=null", None),
        ("model.args={width:32}", {"width": 32}),
    ],
)
def test_what_is_no_plain_name_stays_hydras(typed, value):
    (override,) = parsed(for_hydra([typed]))
    assert override.value() == value


def test_brackets_are_a_name_where_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[1]").mkdir()
    assert parsed(for_hydra(["image=[1]"]))[0].value() == "[1]"
    assert parsed(for_hydra(["image=[2]"]))[0].value() == ["2"]


def test_a_list_may_be_longer_than_a_files_name():
    names = [f"explainer_{i}" for i in range(40)]
    (listed,) = parsed(for_hydra([f"explainer=[{','.join(names)}]"]))
    assert listed.value() == names
    (swept,) = parsed(for_hydra([f"explainer={','.join(names)}", "-m"])[:1])
    assert [str(name) for name in swept.sweep_iterator()] == names


def test_a_sweep_of_names_is_a_sweep():
    (_, word) = for_hydra(["-m", "variant=1e3,b c"])
    (override,) = parsed([word])
    assert list(override.sweep_string_iterator()) == ["'1e3'", "'b c'"]
    assert for_hydra(["-m", "variant=choice(a,b)"])[1] == "variant=choice(a,b)"


@pytest.mark.parametrize(
    ("words", "variant"),
    [
        (["explainer.call.mu=0,0.3,0.5"], "${protocol.name}-mu${explainer.call.mu}"),
        (["explainer.call.mu=0,0.5", "protocol=paper,authors"], "${protocol.name}-mu${explainer.call.mu}"),
        (["explainer.call.mu=choice(0,0.5)", "budget=paper,embedded"],
         "${protocol.name}-mu${explainer.call.mu}-budget${budget}"),
        (["explainer.call.mu=0,0.5", "variant=a,b"], None),  # the user's own
        (["shard=1/2,2/2", "seed=0,1", "explainer=sise,rise"], None),  # in the path, or not in the numbers
        (["explainer.call.layers=[-1],[-2]", "dataset.root=/a,/b"], None),  # no part of a name
    ],
)  # fmt: skip
def test_a_sweep_over_settings_has_a_folder_per_value(words, variant):
    added = parsed([word for word in settings.checked_words(["-m", *words], "evaluate") if word.startswith("variant=")])
    given = any(word.startswith("variant=") for word in words)
    assert [o.value() for o in added if not given] == ([variant] if variant else [])


def test_a_variant_of_a_sweep_names_the_value():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        for value in ("0.3", "0"):
            word = settings._variant_of_sweep(parsed(["explainer.call.mu=0,0.3"]))
            cfg = compose("evaluate", [*for_hydra(word), f"explainer.call.mu={value}"])
            settings.check_settings(cfg, "evaluate")
            assert cfg.variant == f"paper-mu{value}"


def test_a_sweep_says_how_far_its_jobs_are(tmp_path):
    for number, ended in enumerate([None, 0, None]):
        log = tmp_path / f"{number}.log"
        (tmp_path / f"{number}.json").write_text(json.dumps({"log": str(log), "exit": ended}))
        log.write_text(f"first\ncell {number}:  45%|####5     | 9/20\n\n")
    (tmp_path / "2.log").unlink()  # not yet begun
    assert sweeps.under_way(tmp_path) == ["#0 cell 0:  45%|####5     | 9/20"]


def test_a_sweep_repeats_all_of_a_jobs_reason():
    log = "cell: 9/20\nerror: o holds a run with other settings:\n  mu 0 -> 1\n  gate a -> b\ndone\n  no\n"
    assert sweeps._said(log) == log.splitlines()[1:4]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=null"], "model=null: expected one of efficientnet_lite0,"),
        (["experiment=null"], "experiment=null: expected one of"),
        (["--config-dir", "configs", "protocol=null"], "protocol=null: expected one of authors,"),
        (["--config-dir", "configs", "metrics=[]"], "metrics=[]: expected one metrics at a time"),
        (["engine.threads=1000000"], "engine.threads: expected null or a whole number from 1 to 1024"),
        (["device=meta"], "device=meta is not available here; expected one of: auto, cpu"),
        (["hydra/launcher=null"], "hydra/launcher=null: expected a name"),
        (["~model"], "~model: the model cannot be taken away"),
        (["+model=vgg16"], "Multiple values for model"),
        (["=x"], "'=x' sets nothing"),
        (["sise"], "'sise' sets nothing"),
        (["limit=1", "+limit=2"], "limit is given twice: 'limit=1' and '+limit=2'"),
        (["--explainer", "sise"], "--explainer: settings are written key=value here: explainer=sise"),
        (["--root=/data"], "here: dataset.root=/data"),
        (["explainer.mu=0.3"], "Did you mean 'explainer.call.mu'?"),
        (["explainer=rise", "explainer.n_mask=3"], "Did you mean 'explainer.call.n_masks'?"),
        (["model=vgg16", "model.args.width=32"], "unknown setting 'model.args.width'"),
        (["explainer.call=null"], "explainer.call: expected settings with a _target_"),
        (["budgets=null"], "budgets: expected settings by name"),
        (["device=gpu"], "device=gpu is not available here; expected one of: auto, cpu"),
        (["model.name=../../evil"], "model.name: expected a name"),
        (["dataset.name=a/../../b"], "dataset.name: expected a name"),
        (["explainer.name=."], "explainer.name: expected a name"),
        (["engine.compile=a(b"], "quote it twice: 'engine.compile=\"a(b\"'"),
    ],
)
def test_a_word_that_cannot_be_meant_is_one_message(words, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate.py", *words])
    with pytest.raises(SystemExit) as end:
        commands_command.script("evaluate")(lambda cfg: pytest.fail("it started"))()
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.startswith("error: ") and said in message


def test_several_groups_of_metrics_are_taken_together(monkeypatch):
    found = []
    monkeypatch.setattr("sys.argv", ["evaluate.py", "metrics=[default,gain]"])
    commands_command.script("evaluate")(lambda cfg: found.extend(cfg.metrics.faithfulness))()
    assert found == ["Drop%", "Increase%", "Gain"]


@pytest.mark.parametrize("words", [["image=[]"], ["target=[]", "image=x"]])
def test_an_empty_list_is_refused(words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["explain.py", *words])
    with pytest.raises(SystemExit):
        commands_command.script("explain")(lambda cfg: pytest.fail("it started"))()
    assert f"{words[0].split('=')[0]}: expected" in capsys.readouterr().err


def test_a_launcher_whose_extra_is_missing_names_it(monkeypatch):
    monkeypatch.setattr(unknown_names.importlib.util, "find_spec", lambda name: None)
    for launcher, extra in (("joblib", "joblib"), ("submitit_local", "slurm"), ("ray", "ray")):
        with pytest.raises(SuiteError, match=rf"launcher={launcher} needs an extra: pip install -e '.\[{extra}\]'"):
            unknown_names._check_launcher(launcher)


def test_slurm_without_srun_is_said(monkeypatch):
    monkeypatch.setattr(unknown_names.shutil, "which", lambda name: None)
    monkeypatch.setattr(unknown_names.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SuiteError, match="there is no srun here"):
        unknown_names._check_launcher("slurm")
    unknown_names._check_launcher("submitit_local")


def test_a_yaml_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "explainer").mkdir()
    (tmp_path / "explainer" / "mine.yaml").write_text("name: mine\n  label: Mine\n")
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--config-dir", str(tmp_path), "explainer=mine"])
    with pytest.raises(SystemExit) as end:
        commands_command.script("evaluate")(lambda cfg: pytest.fail("it started"))()
    message = capsys.readouterr().err
    assert end.value.code == 2 and "mine.yaml, line 2: mapping values are not allowed here" in message
    assert message.count("\n") == 1


def test_a_yaml_may_leave_out_what_has_a_default(tmp_path):
    for group, key in (("explainer", "call"), ("dataset", "loader")):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(f"name: mine\n{key}: {{_target_: mine.mine}}\n")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "explainer=mine", "dataset=mine"]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        bare = compose("evaluate", words)
    settings.check_settings(bare, "evaluate")
    assert bare.explainer == {"name": "mine", "label": "mine", "stochastic": False, "expensive": False,
                              "control": False, "call": {"_target_": "mine.mine"}}  # fmt: skip
    assert bare.dataset.networks and bare.dataset.budget in bare.budgets


# ---------------------------------------------------------------- names of folders


def test_parts_of_a_path_stay_below_it():
    check_names(dataset="voc 2007", model="写真", explainer="a.b")
    for wrong in ("..", ".", "", "a/b", "a\\b", ".scores", "a\nb", None):
        with pytest.raises(SuiteError, match="name of the model"):
            check_names(model=wrong)
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("evaluate", [])
    with pytest.raises(SuiteError, match="name of the dataset"):
        cells.name_of(cfg, "../elsewhere")


@pytest.mark.parametrize(
    ("name", "folder"), [("cat.jpg", "cat"), ("...jpg", "___jpg"), ("..jpg", "__jpg"), (".hidden.png", ".hidden")]
)
def test_a_folder_is_called_after_the_file(name, folder):
    assert folder_name(Path(name)) == folder


# ---------------------------------------------------------------- streams


PRINTS = "from sise.benchmark.terminal import prepare_streams; prepare_streams(); "


def python(code: str, **options):
    command = options.pop("shell", "{python} -c {code}")
    environment = {**os.environ, "CODE": PRINTS + code, "PYTHON": sys.executable, **options.pop("env", {})}
    command = command.format(python='"$PYTHON"', code='"$CODE"')
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, env=environment, capture_output=True, check=False
    )


ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "cp1252"}, ASCII], ids=["cp1252", "ascii"])
def test_characters_that_a_stream_lacks_are_escaped(env):
    done = python(r"print('\u2212 \u00d7 \u2192'); print('\u2212', file=__import__('sys').stderr)", env=env)
    assert done.returncode == 0 and rb"\u2192" in done.stdout and rb"\u2212" in done.stderr


def test_streams_that_are_closed_swallow_what_is_printed(tmp_path):
    code = "import sys, os; print(1, flush=True); sys.stderr.isatty(); print(2, file=sys.stderr); "
    code += f"f = open({str(tmp_path / 'f')!r}, 'w'); sys.exit(f.fileno() < 3)"  # no file becomes a stream
    assert python(code, shell="{python} -c {code} >&- 2>&-").returncode == 0


def test_work_goes_on_when_the_reader_leaves(tmp_path):
    file = tmp_path / "done"
    code = "import time\nfor i in range(5): print(i, flush=True); time.sleep(0.05)\n"
    code += f"from sise.benchmark.terminal import stdout_unread; open({str(file)!r}, 'w').write(str(stdout_unread()))"
    done = python(code, shell="{python} -c {code} | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"") and file.read_text() == "True"


def test_a_full_disk_behind_standard_output_is_said():
    code = "import sys; sys.argv = ['sise', 'list', 'models']\nfrom sise.__main__ import main; main()"
    done = python(code, shell="{python} -c {code} > /dev/full")
    assert done.returncode == 2 and b"error: cannot use standard output: No space left on device" in done.stderr


# ---------------------------------------------------------------- progress


def test_a_log_file_gets_few_lines_of_progress(capsys):
    with terminal.Progress(range(300), desc="cell", unit="image") as bar:
        for i in bar:
            bar.set_postfix_str(f"explainer {i}")
            bar.set_postfix(failed=i)
            if i % 100 == 0:
                bar.write("said")
    told = capsys.readouterr()
    lines = [line for line in told.err.split("\n") if line]
    assert len(lines) == 2 and "0/300" in lines[0] and "300/300" in lines[1] and "\r" not in told.err
    assert told.out.count("said") == 3


def test_a_log_file_gets_a_line_when_it_is_time(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "LOG_INTERVAL", 0.05)
    with terminal.Progress(total=4, unit="image") as bar:
        for _ in range(4):
            time.sleep(0.06)
            bar.update()
    assert len([line for line in capsys.readouterr().err.split("\n") if line]) >= 4


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", sorted(Path(CONFIGS).glob("*.yaml")), ids=lambda p: p.stem)
def test_every_command_has_a_help_with_examples(command):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        said = compose(command.stem, return_hydra_config=True).hydra.help
    assert said.header.strip() and f"python scripts/{command.stem}.py" in said.footer


def test_help_needs_no_torch():
    code = "import sys, runpy; sys.argv = ['evaluate.py', '--help']\n"
    code += "try: runpy.run_path('scripts/evaluate.py', run_name='__main__')\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("False\n") and "Choose one of each group" in done.stdout


# ---------------------------------------------------------------- a network of one's own


def test_a_network_is_named_by_its_file_as_people_type_it():
    typed = ["model=module", "model.target=nets/mynet.py:Net", "model.args.width=32"]
    assert for_hydra(typed) == ["model=module", "model.target=nets.mynet.Net", "++model.args.width=32"]
    assert for_hydra(["model.target=./mynet.py:make.it"]) == ["model.target=mynet.make.it"]
    assert for_hydra(["model.target=mynet.Net"]) == ["model.target=mynet.Net"]  # as before
    assert for_hydra(["model=vgg16", "model.args.width=32"])[1] == "model.args.width=32"  # refused as unknown
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("evaluate", for_hydra(typed))
    assert (cfg.model.loader.target, cfg.model.loader.args) == ("nets.mynet.Net", {"width": 32})

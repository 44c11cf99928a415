"""Scripts run beside each other in their own processes; none is left when that ends early."""

import os
import time

import pytest

from evaluation.scripts import Script, run_scripts


@pytest.fixture
def script(tmp_path):
    """`script("a", code)`: a Script that runs that code; its log is a.log."""

    def make(name, code):
        path = tmp_path / f"{name}.py"
        path.write_text(code)
        return Script(name, [str(path), "an argument"], tmp_path / "logs" / f"{name}.log")

    return make


def test_a_script_that_fails_tells_its_last_line_and_one_that_is_killed_the_signal(tmp_path):
    bad = Script("a", ["run.py", "-input_dir", str(tmp_path / "nowhere")], tmp_path / "a.log")
    (tmp_path / "b.py").write_text("import os; os.kill(os.getpid(), 9)")
    killed = Script("b", [str(tmp_path / "b.py")], tmp_path / "b.log")
    ended = []
    run_scripts([bad, killed], 2, ended.append)
    by_name = {script.name: script for script in ended}
    assert by_name.keys() == {"a", "b"}
    assert "nowhere cannot be read" in by_name["a"].failure and "a.log" in by_name["a"].failure
    assert "killed by signal 9" in by_name["b"].failure


def test_so_many_run_at_a_time_in_their_order_and_their_logs_hold_all_that_was_printed(script):
    code = """
import sys, time
print("begun", time.time_ns(), flush=True)
time.sleep(0.5)
print(sys.argv[1:], file=sys.stderr, flush=True)
print("ended", time.time_ns())
sys.exit(1)
"""
    scripts = [script(name, code) for name in "abcd"]
    ended, seen = [], set()
    run_scripts(scripts, 2, ended.append, lambda names: seen.add(tuple(names)))
    assert [each.status for each in ended] == [1] * 4 and not any(each.failure for each in ended)
    assert max(map(len, seen)) == 2 and {name for names in seen for name in names} == set("abcd")
    lines = {each.name: each.log.read_text().splitlines() for each in ended}
    assert all("['an argument']" in text for text in lines.values())
    begun = {name: int(text[0].split()[1]) for name, text in lines.items()}
    over = {name: int(text[-1].split()[1]) for name, text in lines.items()}
    assert max(begun["a"], begun["b"]) < min(begun["c"], begun["d"])
    assert min(over["a"], over["b"]) < min(begun["c"], begun["d"])


def test_what_on_end_raises_ends_all_that_run_and_starts_no_more(script, tmp_path):
    wait = f"""
import os, time
open({str(tmp_path)!r} + "/pid", "w").write(str(os.getpid()))
time.sleep(100)
"""
    quick = f"""
import os, time
while not os.path.exists({str(tmp_path / "pid")!r}) or not open({str(tmp_path / "pid")!r}).read():
    time.sleep(0.01)
"""
    never = f"open({str(tmp_path / 'never')!r}, 'w')"
    scripts = [script("wait", wait), script("quick", quick)]
    scripts += [script(f"never{i}", "import time; time.sleep(1)\n" + never) for i in range(3)]

    def on_end(ended):
        assert ended.name == "quick"
        raise ZeroDivisionError

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        run_scripts(scripts, 2, on_end)
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not (tmp_path / "never").exists()


def test_a_log_that_cannot_be_written_is_an_OSError(script, tmp_path):
    (tmp_path / "logs").write_text("no folder")
    with pytest.raises(OSError):
        run_scripts([script("a", "")], 1, lambda ended: None)

"""Every threat that the threat model calls tested has tests that carry its id, and no other has."""

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = (HERE.parents[1] / "docs/threat-model.md").read_text()


def test_threat_model_and_tests_agree() -> None:
    rows = re.findall(r"^\| (T\d\d) \|.*\| (yes|no) \|$", MODEL, re.MULTILINE)
    assert [row[0] for row in rows] == [f"T{number:02d}" for number in range(1, 28)]
    tested = {threat for threat, answer in rows if answer == "yes"}
    found = set()
    for path in HERE.glob("test_T*.py"):
        names = re.findall(r"^def test_(T\d\d)_", path.read_text(), re.MULTILINE)
        assert set(names) == {path.name[5:8]}, path.name
        found |= set(names)
    assert found == tested

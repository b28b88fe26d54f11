"""The list of faults still fits the code: each can be placed, and names tests that exist."""

import pytest
from conftest import REPOSITORY
from mutations import FAULTS


def test_there_are_enough():
    assert len(FAULTS) >= 30
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.why}")
def test_it_can_be_placed(fault):
    text = (REPOSITORY / "qin_zoo" / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1
    changed = text.replace(fault.old, fault.new)
    assert changed != text
    compile(changed, fault.file, "exec")
    for test in fault.tests.split():
        file, *names = test.split("::")
        source = (REPOSITORY / "tests" / file).read_text(encoding="utf-8")
        assert all(f"def {name}(" in source or f"class {name}:" in source for name in names)

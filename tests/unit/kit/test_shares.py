import pytest

from tests.kit.shares import share


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        ("tests/unit/store/test_stores.py::test_a[moto]", "tests/unit/store/test_stores.py"),
        ("tests/integration/test_kill.py::test_a", "tests/integration/test_kill.py"),
        ("tests/integration/docs/test_machine.py::test_a[usual]", "tests/integration/docs/test_machine.py"),
        ("tests/integration/chart/test_users.py::test_a", "tests/integration/chart"),
        ("tests/integration/apiserver/test_faults.py::test_a", "tests/integration/apiserver"),
        ("tests/integration/apiserver/test_cli.py::test_a[usual]", "tests/integration/apiserver usual"),
        ("tests/integration/apiserver/test_crd.py::test_a[usual-seed 1.36]", "tests/integration/apiserver usual"),
        ("tests/integration/apiserver/test_crd.py::test_a[1.36-usual]", "tests/integration/apiserver 1.36"),
    ],
)
def test_tests_that_share_servers_are_one_share(nodeid: str, expected: str) -> None:
    assert share(nodeid) == expected

"""What the whole-program tests share."""

import pytest
from program import tiny, train


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The directory of a finished run: two epochs of the tiny network on scikit-learn's digits. Leave it as it is."""
    runs = tmp_path_factory.mktemp("digits_run")
    ended = train(*tiny(runs, epochs=2))
    assert ended.code == 0, ended.text
    return runs / "digits" / "version_0"

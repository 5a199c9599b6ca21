from tests.puzzle.test_search import saved  # noqa: F401 - a fixture

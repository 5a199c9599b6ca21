"""Claims about uploading a child, to a Hub that listens on this machine."""

from tests.factories.hub import hub


def test_what_is_pushed_is_what_is_saved(found, tmp_path):
    with hub() as server:
        options = {"token": "hf_nothing", "endpoint": server.endpoint, "commit_message": "A child"}
        url = found.push_to_hub("me/child", private=True, **options)
        assert url == f"{server.endpoint}/me/x/commit/1"
        assert server.created == [{"name": "child", "organization": "me", "visibility": "private"}]
        assert "Child of parent" in server.cards[0]
        assert server.messages == ["A child"]
        saved = found.save(tmp_path / "child")
        expected = {path.name: path.read_bytes() for path in saved.iterdir()}
        assert server.files == expected

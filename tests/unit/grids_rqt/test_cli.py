"""Options of `./grids view`: where the page's token comes from, and no option is ignored."""

import pytest

from grids_rqt import cli

TOKEN = "abcdef0123"


def token(*words: object) -> str:
    return cli._token(cli._parser().parse_args([*map(str, words)]))


def test_the_token_comes_from_the_environment_a_file_or_the_command(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("filefile1\n", encoding="utf-8")
    monkeypatch.delenv("GRIDS_VIEW_TOKEN", raising=False)
    assert token() == ""
    monkeypatch.setenv("GRIDS_VIEW_TOKEN", TOKEN)
    assert token() == TOKEN
    assert token("--token-file", file) == "filefile1"
    assert token("--token", "wordword1") == "wordword1"


def test_a_file_without_a_token_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRIDS_VIEW_TOKEN", TOKEN)
    empty = tmp_path / "empty"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match=f"expected a word in {empty}, found none"):
        token("--token-file", empty)
    with pytest.raises(RuntimeError, match=r"cannot read .*none: "):
        token("--token-file", tmp_path / "none")


@pytest.mark.parametrize("words", [("--size", "1280x800"), ("--wait", "60"), ("--wait", "0")])
def test_what_a_page_cannot_use_is_refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--web", *words])
    assert end.value.code == 2
    assert "--web: expected neither --size nor --wait with it" in capsys.readouterr().err

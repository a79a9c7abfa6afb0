import pytest

from cluster.errors import UserError
from cluster.secrets import expanded, holds_password, without_password
from cluster.tracking_store import TrackingError, first_sentence, open_store


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://mcb:s3cret@db/mlflow",
        "http://mcb:s3cret@h:5000/x",
        "mysql+pymysql://u:s3cret%40@db",
        "s://:s3cret@h",
        "postgresql://mcb:s3cret/with/slashes@db/mlflow",
        "postgresql://mcb@srv:s3cret@db/x",
    ],
)
def test_no_password_of_a_uri_is_shown_wherever_it_stands_in_a_text(uri):
    for text in (uri, f"API request to {uri} failed, and {uri} too"):
        assert "s3cret" not in without_password(text) and "***@" in without_password(text)
    assert holds_password(uri)
    assert "s3cret" not in first_sentence(RuntimeError(f"no answer from {uri}"))


def test_a_password_with_signs_that_a_uri_should_not_hold_is_hidden_whole():
    assert without_password("http://mcb:a@b:c@host:1/x") == "http://mcb:***@host:1/x"


def test_texts_without_passwords_stay_as_they_are():
    for text in ("http://host:5000", "http://user@host", "http://u:${PASSWORD}@host", "see https://x.y/z: a@b", ""):
        assert without_password(text) == text


def test_variables_are_expanded_by_name_and_a_missing_one_is_named():
    environment = {"USER_NAME": "mcb", "PASSWORD": "s3cret"}
    assert expanded("http://${USER_NAME}:$PASSWORD@h:1", environment) == "http://mcb:s3cret@h:1"
    with pytest.raises(UserError, match=r"http://\$NOBODY@h names the environment variable NOBODY, which is not set"):
        expanded("http://$NOBODY@h", environment)


@pytest.mark.parametrize(
    "given", ["http://mcb:s3cret@127.0.0.1:1", "$STORE", "postgresql://mcb:s3cret/with/slashes@127.0.0.1:1/mlflow"]
)
def test_a_store_that_does_not_answer_is_refused_without_its_password(given, monkeypatch):
    monkeypatch.setenv("STORE", "postgresql://mcb:s3cret@127.0.0.1:1/mlflow")
    with pytest.raises(TrackingError, match=r"does not answer") as refusal:
        open_store(given)
    assert "s3cret" not in str(refusal.value)

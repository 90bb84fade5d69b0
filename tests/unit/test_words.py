"""What people and programs are told that write something wrong: each sentence says what it is and what to do."""

from pathlib import Path

import pytest
from ippo_operator.cli.main import main
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.live import Routes
from ippo_trainer.gateway import schemas
from ippo_trainer.gateway.bodies import parsed
from ippo_trainer.gateway.watched import Watched
from ippo_trainer.http.arguments import place
from ippo_trainer.http.errors import RequestError
from ippo_trainer.serve.requests import parse

DEEP, LONG = b"[" * 100_000, b'{"messages": ' + b"9" * 5000 + b"}"


@pytest.mark.parametrize("read", [parsed, parse], ids=["gateway", "server"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (DEEP, "the body is not JSON that can be read: lists and objects are too deep"),
        (LONG, "the body is not JSON: it holds a number of 5000 digits"),
        (b'{"n": NaN}', "the body is not JSON: it holds NaN, which is no number of JSON"),
    ],
)
def test_a_body_is_described_without_the_parsers_insides(read, body, message):
    with pytest.raises(RequestError) as caught:
        read(body)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (schemas.ChatBody, "messages"),
        (schemas.OutcomeBody, "outcome"),
        (schemas.ReactionBody, "reaction"),
        (schemas.CustomerComplaintBody, "customer_id"),
    ],
)
def test_a_field_that_is_missing_is_not_called_forbidden(model, field):
    with pytest.raises(RequestError) as caught:
        schemas.read(model, {})
    assert (str(caught.value), caught.value.param) == (f"{field} is missing", field)


def test_a_server_says_the_same():
    with pytest.raises(RequestError) as caught:
        parse(b"{}")
    assert str(caught.value) == "messages is missing"
    with pytest.raises(RequestError) as caught:
        parse(b'{"messages": [{"role": "user", "content": "a"}], "no_such": 1}')
    assert "no_such is not supported by this server" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["it is no JSON: EOF while parsing"]),
        (
            '{"active": {"digest": "x"}, "idle": "30m", "outcomeWindow": "7d", "more": 1}',
            [
                "run is missing",
                "active.digest has to be sha256: and 64 hexadecimal",
                "active.url is missing",
                "more is",
            ],
        ),
    ],
)
def test_all_that_is_wrong_with_a_file_of_routes_is_told_in_words(tmp_path: Path, text, words):
    path = tmp_path / "routes.json"
    path.write_text(text)
    with pytest.raises(BadDataError) as caught:
        Watched(path, "the file of routes", Routes.model_validate_json)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "0-9a-f" not in str(caught.value)


def test_a_folder_to_write_to_is_not_to_be_downloaded(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="the folder 'g/live' is no file:// or s3:// address") as caught:
        place("g/live")
    assert f"file://{tmp_path}/g/live" in str(caught.value)
    assert "ownload" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said", "never"),
    [
        (["suspend", "runs/x"], "Ctrl-C stops its runner", "no cluster"),
        (["resume", "runs/x"], "ippo run -f RUN.yaml --out runs/x", "no cluster"),
        (["chat", "runs/nothing"], "there is no folder runs/nothing; ippo run", "port-forward"),
        (["chat", "shop"], "kubectl port-forward service/shop-gateway", "ippo run"),
        (["validat"], "did you mean validate?", "None"),
    ],
)
def test_a_command_that_cannot_be_meant_says_what_to_do(words, said, never, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs/x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    errors = capsys.readouterr().err
    assert code == 64
    assert said in errors
    assert never not in errors


def test_a_simulator_of_nearly_that_name(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(
        "{apiVersion: ippo.dev/v1alpha1, kind: IterativePPORun, metadata: {name: x}, spec: {iterations: {max: 1}, "
        'policy: {base: "tiny:d100000-l1000"}, warmStart: {demonstrations: 1}, '
        "collect: {simulate: {environment: {name: sr-funel}}}}}"
    )
    assert main(["validate", "-f", str(path)]) == 64
    errors = capsys.readouterr().err
    assert "did you mean sr-funnel?" in errors
    assert "1 to 99 layers and heads and a width from 8 to 9999" in errors

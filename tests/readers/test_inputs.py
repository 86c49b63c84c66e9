import pytest

from gnelint.errors import UsageError
from gnelint.readers.inputs import InputSpec, parse_input


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("8,3,32,32", InputSpec((8, 3, 32, 32))),
        (" 8, 3 ", InputSpec((8, 3))),
        ("8", InputSpec((8,))),
        ("ids=8,16:int64", InputSpec((8, 16), "ids", "int64")),
        ("8,16:int64", InputSpec((8, 16), None, "int64")),
        ("x=", InputSpec((), "x")),
        ("a=b:0=2,3", InputSpec((2, 3), "a=b:0")),
    ],
)
def test_parse_input(text: str, spec: InputSpec) -> None:
    assert parse_input(text) == spec


@pytest.mark.parametrize(
    "text", ["", "8,,3", "8,-1", "0", "8x3", "a=8:floot", "8,3:", "²", "9" * 30, "1000000,1000000,10"]
)
def test_parse_input_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="--input"):
        parse_input(text)

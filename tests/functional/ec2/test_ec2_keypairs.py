"""Key pairs by an unmodified boto3."""

import base64

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization

ED25519 = (
    b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGEDTTpvsyTYBzNrMVZkW2lyqcjxEr5CiwTfwLjB3XtB me@here"
)


def code(call, **arguments):
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    return raised.value.response["Error"]["Code"]


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_new_pair_gives_its_private_half_once(ec2, kind):
    made = ec2.create_key_pair(KeyName="mine", KeyType=kind)
    assert made["KeyName"] == "mine"
    assert made["KeyPairId"].startswith("key-")
    load = (
        serialization.load_ssh_private_key
        if "OPENSSH" in made["KeyMaterial"]
        else serialization.load_pem_private_key
    )
    load(made["KeyMaterial"].encode(), password=None)
    [pair] = ec2.describe_key_pairs()["KeyPairs"]
    assert pair["KeyFingerprint"] == made["KeyFingerprint"]
    assert (pair["KeyType"], pair["KeyPairId"]) == (kind, made["KeyPairId"])
    assert pair["CreateTime"].year > 2000
    assert "PublicKey" not in pair


def test_a_key_of_ones_own_is_imported(ec2):
    made = ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=ED25519)
    [pair] = ec2.describe_key_pairs(KeyNames=["mine"], IncludePublicKey=True)["KeyPairs"]
    assert pair["KeyFingerprint"] == made["KeyFingerprint"]
    assert pair["PublicKey"].split()[:2] == ED25519.decode().split()[:2]


@pytest.mark.parametrize(
    "material", [b"", b"ssh-rsa", b"no key", b"\xff\x00", "ssh-rsa ü".encode(), b"A" * 100_000]
)
def test_what_is_no_key_is_refused_and_leaves_nothing(ec2, door, material):
    form = base64.b64encode(material).decode().replace("+", "%2B").replace("=", "%3D")
    answer = door.ask(f"Action=ImportKeyPair&KeyName=bad&PublicKeyMaterial={form}")
    assert answer.status == 400
    assert answer.code in ("InvalidKey.Format", "InvalidParameterValue", "MissingParameter")
    assert ec2.describe_key_pairs()["KeyPairs"] == []


def test_a_name_is_taken_once(ec2):
    ec2.create_key_pair(KeyName="mine")
    assert code(ec2.create_key_pair, KeyName="mine") == "InvalidKeyPair.Duplicate"
    assert code(ec2.import_key_pair, KeyName="mine", PublicKeyMaterial=ED25519) == (
        "InvalidKeyPair.Duplicate"
    )


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "a\x00b", "a\nb", "naïve", "\ud83d\ude00"])
def test_a_name_that_is_none_is_refused(ec2, name):
    name = name.encode("utf-16", "surrogatepass").decode("utf-16")
    assert code(ec2.create_key_pair, KeyName=name) in ("InvalidParameterValue", "MissingParameter")


def test_deleting_is_done_when_it_is_gone(ec2):
    made = ec2.create_key_pair(KeyName="one")
    assert ec2.delete_key_pair(KeyName="one")["Return"] is True
    assert ec2.delete_key_pair(KeyName="one")["Return"] is True
    assert code(ec2.describe_key_pairs, KeyNames=["one"]) == "InvalidKeyPair.NotFound"
    made = ec2.create_key_pair(KeyName="two")
    assert ec2.delete_key_pair(KeyPairId=made["KeyPairId"])["KeyPairId"] == made["KeyPairId"]
    assert code(ec2.delete_key_pair) == "MissingParameter"
    assert ec2.describe_key_pairs()["KeyPairs"] == []


def test_pairs_are_found_by_filter_and_id(ec2):
    ids = {name: ec2.create_key_pair(KeyName=name)["KeyPairId"] for name in ("aa", "ab", "b*")}

    def found(*values):
        filters = [{"Name": "key-name", "Values": list(values)}]
        pairs = ec2.describe_key_pairs(Filters=filters)["KeyPairs"]
        return sorted(pair["KeyName"] for pair in pairs)

    assert found("a?") == ["aa", "ab"]
    assert found("*") == ["aa", "ab", "b*"]
    assert found("b\\*") == ["b*"]
    assert found("aa", "b*") == ["aa", "b*"]
    assert found("A?") == []
    [pair] = ec2.describe_key_pairs(KeyPairIds=[ids["ab"]])["KeyPairs"]
    assert pair["KeyName"] == "ab"

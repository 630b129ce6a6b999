"""EC2's wire format, both ways, against botocore's own serializer and parser."""

import datetime
import xml.etree.ElementTree as ET

import pytest
from botocore import parsers, serialize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicloud import errors
from minicloud.api.aws import protocol
from minicloud.api.ec2 import actions, app  # noqa: F401  (registers the actions)

EC2 = protocol.service("ec2")
CLIENT = serialize.create_serializer("ec2", include_validation=False)
READER = parsers.create_parser("ec2")
VERSION = "2016-11-15"


def operation(name):
    return protocol.operation("ec2", name)


def parse(name, parameters):
    return protocol.parse(operation(name), parameters.items())


def sent(model, arguments):
    body = CLIENT.serialize_to_request(arguments, model)["body"]
    return [(key, _form(value)) for key, value in body.items() if key not in ("Action", "Version")]


def _form(value):
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def received(model, body):
    response = {"body": body, "headers": {}, "status_code": 200}
    parsed = READER.parse(response, model.output_shape)
    parsed.pop("ResponseMetadata", None)
    return parsed


def example(shape, depth=0):
    """A value with every member of the shape, as deep as its shapes do not repeat too often."""
    kind = shape.type_name
    if kind == "structure":
        members = shape.members.items() if depth < 9 else ()
        return {name: example(inner, depth + 1) for name, inner in members}
    if kind == "list":
        count = min(max(2, shape.metadata.get("min", 0)), shape.metadata.get("max", 2))
        return [example(shape.member, depth + 1) for _ in range(count)]
    low, high = shape.metadata.get("min", 1), shape.metadata.get("max", 1000)
    if kind == "string":
        return shape.enum[0] if shape.enum else "<&>'\" ü x".ljust(low, "y")[:high]
    return {
        "integer": low,
        "long": low,
        "double": 1.5,
        "float": 1.5,
        "boolean": True,
        "timestamp": datetime.datetime(2026, 11, 20, 9, 0, 0, tzinfo=datetime.UTC),
        "blob": b"\x00\xff bytes",
    }[kind]


def without_empty(value):
    """EC2 cannot say an empty list or structure in a request."""
    if isinstance(value, dict):
        inner = {name: without_empty(item) for name, item in value.items()}
        return {name: item for name, item in inner.items() if item not in ({}, [])}
    if isinstance(value, list):
        return [item for item in map(without_empty, value) if item not in ({}, [])]
    return value


@pytest.mark.parametrize("part", range(8))
def test_every_request_that_ec2_knows_arrives_as_it_was_sent(part):
    for name in EC2.operation_names[part::8]:
        model = operation(name)
        if model.input_shape is None:
            continue
        arguments = without_empty(example(model.input_shape))
        parsed = protocol.parse(model, sent(model, arguments))
        assert parsed == {protocol.argument(key): value for key, value in arguments.items()}, name


@pytest.mark.parametrize("part", range(8))
def test_every_answer_that_ec2_knows_is_read_as_it_was_given(part):
    for name in EC2.operation_names[part::8]:
        model = operation(name)
        if model.output_shape is None:
            continue
        result = example(model.output_shape)
        body = protocol.render(model, result, VERSION, "req-1")
        assert received(model, body) == result, name


TEXT = st.text(
    st.characters(
        codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"
    ),
    max_size=20,
)


def values(shape, depth=0):
    kind, limits = shape.type_name, shape.metadata
    low, high = limits.get("min", 0), limits.get("max")
    if kind == "structure":
        members = {n: values(inner, depth + 1) for n, inner in shape.members.items()}
        if depth > 4:
            members = {}
        required = {n: s for n, s in members.items() if n in shape.required_members}
        optional = {n: s for n, s in members.items() if n not in required}
        return st.fixed_dictionaries(required, optional=optional)
    if kind == "list":
        return st.lists(values(shape.member, depth + 1), min_size=low, max_size=low + 3)
    if kind == "string":
        own = shape.enum and shape.name not in protocol.OWN_VALUES
        return st.sampled_from(shape.enum) if own else TEXT.map(lambda text: text + "x" * low)
    bits = 63 if kind == "long" else 31
    return {
        "integer": st.integers(low if low else -(2**bits), high or 2**bits - 1),
        "long": st.integers(low if low else -(2**bits), high or 2**bits - 1),
        "double": st.floats(-1e9, 1e9, allow_subnormal=False).map(lambda x: round(x, 6)),
        "float": st.floats(-1e9, 1e9, allow_subnormal=False).map(lambda x: round(x, 6)),
        "boolean": st.booleans(),
        "timestamp": st.datetimes(
            datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1)
        ).map(lambda at: at.replace(microsecond=0, tzinfo=datetime.UTC)),
        "blob": st.binary(max_size=50),
    }[kind]


@pytest.mark.parametrize("name", actions.names())
def test_requests_of_the_built_actions_survive_the_wire(name):
    model = operation(name)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values(model.input_shape))
    def survives(arguments):
        arguments = without_empty(arguments)
        required = set(model.input_shape.required_members)
        if required <= set(arguments):
            parsed = protocol.parse(model, sent(model, arguments))
            assert parsed == {protocol.argument(key): v for key, v in arguments.items()}

    survives()


@pytest.mark.parametrize("name", actions.names())
def test_answers_of_the_built_actions_survive_the_wire(name):
    model = operation(name)
    if model.output_shape is None:
        body = protocol.render(model, {}, VERSION, "req-1")
        assert b"<return>true</return>" in body
        return

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values(model.output_shape))
    def survives(result):
        assert received(model, protocol.render(model, result, VERSION, "req-1")) == result

    survives()


@pytest.mark.parametrize("name", actions.names())
def test_a_built_action_takes_only_what_aws_has(name):
    members = {protocol.argument(member) for member in operation(name).input_shape.members}
    assert actions._parameters[name] <= members


# --- requests: tables of what a client may write ---------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "ids"),
    [
        ({"InstanceId.1": "i-a", "InstanceId.2": "i-b"}, ["i-a", "i-b"]),
        ({"InstanceId.0": "i-a", "InstanceId.1": "i-b"}, ["i-a", "i-b"]),
        ({"InstanceId.7": "i-b", "InstanceId.3": "i-a"}, ["i-a", "i-b"]),
        ({"InstanceId.10": "i-b", "InstanceId.9": "i-a"}, ["i-a", "i-b"]),
        ({"InstanceId": ""}, []),
        ({"InstanceId": "i-a"}, ["i-a"]),
    ],
)
def test_lists_may_begin_anywhere_and_have_gaps(parameters, ids):
    assert parse("DescribeInstances", parameters) == {"instance_ids": ids}


@pytest.mark.parametrize("number", ["0", "1"])
def test_one_text_may_come_as_a_list_of_one(number):
    asked = parse("GetConsoleOutput", {f"InstanceId.{number}": "i-a"})
    assert asked == {"instance_id": "i-a"}


@pytest.mark.parametrize(
    ("text", "value"), [("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_yes_and_no_are_also_one_and_nought(text, value):
    asked = parse("DetachVolume", {"VolumeId": "vol-1", "Force": text})
    assert asked["force"] is value


def test_members_of_members_are_found_by_their_wire_names():
    parsed = parse(
        "AuthorizeSecurityGroupIngress",
        {
            "GroupId": "sg-1",
            "IpPermissions.1.IpProtocol": "tcp",
            "IpPermissions.1.FromPort": "22",
            "IpPermissions.1.IpRanges.1.CidrIp": "10.0.0.0/8",
            "IpPermissions.1.Groups.1.GroupName": "web",
        },
    )
    assert parsed["ip_permissions"] == [
        {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
            "UserIdGroupPairs": [{"GroupName": "web"}],
        }
    ]


def test_what_aws_does_not_know_is_ignored():
    assert parse("DescribeInstances", {"Verbose": "x", "Deep.1.Thing": "y"}) == {}


def test_an_instance_type_is_this_clouds_word():
    parsed = parse("RunInstances", {"MinCount": "1", "MaxCount": "1", "InstanceType": "m1.nano"})
    assert parsed["instance_type"] == "m1.nano"


RUN = {"MinCount": "1", "MaxCount": "1", "ImageId": "ami-1"}
KEY = {"KeyName": "k"}


@pytest.mark.parametrize(
    ("action", "parameters", "error", "names"),
    [
        ("RunInstances", {"MinCount": "1"}, errors.MissingParameter, "MaxCount"),
        ("RunInstances", {**RUN, "MinCount": "one"}, errors.InvalidValue, "MinCount"),
        ("RunInstances", {**RUN, "MinCount": ""}, errors.InvalidValue, "MinCount"),
        ("RunInstances", {**RUN, "MinCount": "1.0"}, errors.InvalidValue, "MinCount"),
        ("RunInstances", {**RUN, "MinCount": "٣"}, errors.InvalidValue, "MinCount"),
        ("RunInstances", {**RUN, "MinCount": "2147483648"}, errors.InvalidValue, "MinCount"),
        ("RunInstances", {**RUN, "MinCount": "9" * 5000}, errors.InvalidValue, "MinCount"),
        ("RunInstances", {**RUN, "DryRun": "yes"}, errors.InvalidValue, "DryRun"),
        ("RunInstances", {**RUN, "ImageId.2": "x"}, errors.UnknownParameter, "ImageId.2"),
        ("RunInstances", {**RUN, "Placement": "x"}, errors.UnknownParameter, "Placement"),
        ("RunInstances", {**RUN, "KeyName.A": "x"}, errors.UnknownParameter, "KeyName.A"),
        ("DescribeInstances", {"Filter": "x"}, errors.UnknownParameter, "Filter"),
        (
            "RunInstances",
            {**RUN, "SecurityGroup.x": "y"},
            errors.UnknownParameter,
            "SecurityGroup.x",
        ),
        (
            "RunInstances",
            {**RUN, "SecurityGroup.1": "a", "SecurityGroup.01": "b"},
            errors.UnknownParameter,
            "SecurityGroup.01",
        ),
        (
            "RunInstances",
            {**RUN, "SecurityGroup.-1": "y"},
            errors.UnknownParameter,
            "SecurityGroup.-1",
        ),
        (
            "RunInstances",
            {**RUN, ".".join("x" * 50): "y"},
            errors.UnknownParameter,
            "x.x",
        ),
        ("CreateKeyPair", {**KEY, "KeyType": "dsa"}, errors.InvalidValue, "KeyType"),
        ("CreateKeyPair", {}, errors.MissingParameter, "KeyName"),
        (
            "ImportKeyPair",
            {**KEY, "PublicKeyMaterial": "not base64!"},
            errors.InvalidValue,
            "PublicKeyMaterial",
        ),
        (
            "ImportKeyPair",
            {**KEY, "PublicKeyMaterial": "ü"},
            errors.InvalidValue,
            "PublicKeyMaterial",
        ),
        ("DescribeSecurityGroups", {"MaxResults": "4"}, errors.InvalidValue, "MaxResults"),
        ("DescribeSecurityGroups", {"MaxResults": "1001"}, errors.InvalidValue, "MaxResults"),
        (
            "DescribeInstances",
            {f"InstanceId.{n}": "i-1" for n in range(1001)},
            errors.InvalidValue,
            "InstanceId",
        ),
        (
            "DescribeInstanceTypes",
            {f"InstanceType.{n}": "t" for n in range(101)},
            errors.InvalidValue,
            "InstanceType",
        ),
    ],
)
def test_a_wrong_parameter_is_named(action, parameters, error, names):
    with pytest.raises(error) as raised:
        parse(action, parameters)
    assert names in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_parameter_that_comes_twice_is_refused():
    with pytest.raises(errors.InvalidValue, match="more than once"):
        protocol.parse(operation("CreateKeyPair"), [("KeyName", "a"), ("KeyName", "b")])


@pytest.mark.parametrize(
    "parameters", [[("A", "1"), ("A.1", "2")], [("A.1", "2"), ("A", "1")], [("", "1"), ("", "2")]]
)
def test_a_parameter_cannot_be_a_value_and_a_structure(parameters):
    with pytest.raises(errors.BadRequest):
        protocol.parse(operation("DescribeInstances"), parameters)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2011-01-01T00:00:00Z", (2011, 1, 1, 0, 0)),
        ("2011-01-01T00:00:00.000Z", (2011, 1, 1, 0, 0)),
        ("2011-01-01T02:00:00+02:00", (2011, 1, 1, 0, 0)),
        ("2011-01-01T00:00:00", (2011, 1, 1, 0, 0)),
        ("2011-01-01", (2011, 1, 1, 0, 0)),
    ],
)
def test_times_are_utc(text, at):
    parsed = parse("DescribeSpotPriceHistory", {"StartTime": text})
    assert parsed["start_time"] == datetime.datetime(*at, tzinfo=datetime.UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "0001-01-01T00:00:00+23:00", "2011-13-01"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(errors.InvalidValue):
        parse("DescribeSpotPriceHistory", {"StartTime": text})


NAMES = st.lists(
    st.sampled_from(["InstanceId", "Filter", "1", "0", "Name", "Value", "", "MaxResults", "ü"]),
    min_size=1,
    max_size=5,
).map(".".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAMES | st.text(max_size=20), st.text(max_size=20)), max_size=8))
def test_whatever_comes_is_parsed_or_refused(pairs):
    try:
        protocol.parse(operation("DescribeInstances"), pairs)
    except errors.BadRequest as error:
        ET.fromstring(protocol.fault(error.ec2, str(error), "req-1"))


def test_an_action_that_ec2_does_not_have_is_invalid():
    for name in ("", "Nope", "describeInstances", "DescribeInstances ", "__class__", "A" * 10000):
        with pytest.raises(errors.InvalidAction):
            protocol.operation("ec2", name)


# --- answers ---------------------------------------------------------------------------------


def test_the_request_id_comes_first_and_the_version_is_the_namespace():
    body = protocol.render(operation("DescribeRegions"), {"Regions": []}, "2009-04-04", "req-7")
    root = ET.fromstring(body)
    namespace = "{http://ec2.amazonaws.com/doc/2009-04-04/}"
    assert root.tag == f"{namespace}DescribeRegionsResponse"
    assert [child.tag for child in root] == [f"{namespace}requestId", f"{namespace}regionInfo"]
    assert root[0].text == "req-7"


def test_what_xml_cannot_carry_is_replaced():
    name = 'a\x00b\x1bc\ud800d\ufffee\r\n\t<&">'
    body = protocol.render(operation("CreateKeyPair"), {"KeyName": name}, VERSION, "req-1")
    assert received(operation("CreateKeyPair"), body)["KeyName"] == (
        'a\ufffdb\ufffdc\ufffdd\ufffde\r\n\t<&">'
    )


def test_a_name_that_aws_does_not_have_is_our_error():
    with pytest.raises(KeyError):
        protocol.render(operation("CreateKeyPair"), {"KeyNam": "x"}, VERSION, "req-1")


def test_members_that_are_none_are_left_out():
    body = protocol.render(operation("CreateKeyPair"), {"KeyName": None}, VERSION, "req-1")
    assert b"keyName" not in body


def test_a_fault_says_code_message_and_request_id():
    root = ET.fromstring(protocol.fault("InvalidThing", "no <such> \x00 thing", "req-9"))
    assert root.findtext("Errors/Error/Code") == "InvalidThing"
    assert root.findtext("Errors/Error/Message") == "no <such> \ufffd thing"
    assert root.findtext("RequestID") == "req-9"
